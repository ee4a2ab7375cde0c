// Guided filter, step 2: a block reads its pixels once, into shared memory.
//
// Neighbouring windows overlap almost completely, so step 1 reads each pixel 81 times (R = 4).
// Here the TILE x TILE threads of a block first copy the tile they need, with R more pixels on
// each side (the halo), into memory that they share on the chip; the windows are then read from
// there. Reads of global memory fall from (2R+1)^2 to ((TILE+2R)/TILE)^2 per pixel: 2.25 for
// TILE = 16, R = 4. The additions stay as many.
//
// __syncthreads() between copying and reading: without it a thread reads places that another
// thread has not filled yet. Pixels outside the image are stored as 0 and not counted.
//
// Block (TILE, TILE); grid (tiles across, tiles down, channels). -DR=4 -DTILE=16.

#define SIDE (TILE + 2 * R)

extern "C" __global__ void coefficients(const unsigned char *image, float *a, float *b,
                                        int width, int height, int channels, float eps)
{
    __shared__ unsigned char tile[SIDE * SIDE];
    int x0 = blockIdx.x * TILE - R, y0 = blockIdx.y * TILE - R;  // corner of the halo
    int c = blockIdx.z;
    for (int i = threadIdx.y * TILE + threadIdx.x; i < SIDE * SIDE; i += TILE * TILE) {
        int u = x0 + i % SIDE, v = y0 + i / SIDE;
        bool inside = u >= 0 && u < width && v >= 0 && v < height;
        tile[i] = inside ? image[(v * width + u) * channels + c] : 0;
    }
    __syncthreads();

    int x = x0 + R + threadIdx.x, y = y0 + R + threadIdx.y;
    if (x >= width || y >= height) return;
    int sum = 0, squares = 0;
    for (int v = 0; v <= 2 * R; v++)
        for (int u = 0; u <= 2 * R; u++) {
            int value = tile[(threadIdx.y + v) * SIDE + threadIdx.x + u];
            sum += value;
            squares += value * value;
        }
    float count = (min(x + R, width - 1) - max(x - R, 0) + 1)
                * (min(y + R, height - 1) - max(y - R, 0) + 1);
    float mean = sum / count;
    float variance = fmaxf(squares / count - mean * mean, 0.0f);
    float slope = variance / (variance + eps);
    int here = (y * width + x) * channels + c;
    a[here] = slope;
    b[here] = (1.0f - slope) * mean;
}

extern "C" __global__ void apply(const unsigned char *image, const float *a, const float *b,
                                 unsigned char *out, int width, int height, int channels)
{
    __shared__ float tile_a[SIDE * SIDE], tile_b[SIDE * SIDE];
    int x0 = blockIdx.x * TILE - R, y0 = blockIdx.y * TILE - R;
    int c = blockIdx.z;
    for (int i = threadIdx.y * TILE + threadIdx.x; i < SIDE * SIDE; i += TILE * TILE) {
        int u = x0 + i % SIDE, v = y0 + i / SIDE;
        bool inside = u >= 0 && u < width && v >= 0 && v < height;
        tile_a[i] = inside ? a[(v * width + u) * channels + c] : 0.0f;
        tile_b[i] = inside ? b[(v * width + u) * channels + c] : 0.0f;
    }
    __syncthreads();

    int x = x0 + R + threadIdx.x, y = y0 + R + threadIdx.y;
    if (x >= width || y >= height) return;
    float sum_a = 0.0f, sum_b = 0.0f;
    for (int v = 0; v <= 2 * R; v++)
        for (int u = 0; u <= 2 * R; u++) {
            int there = (threadIdx.y + v) * SIDE + threadIdx.x + u;
            sum_a += tile_a[there];
            sum_b += tile_b[there];
        }
    float count = (min(x + R, width - 1) - max(x - R, 0) + 1)
                * (min(y + R, height - 1) - max(y - R, 0) + 1);
    int here = (y * width + x) * channels + c;
    float q = (sum_a * image[here] + sum_b) / count;
    out[here] = (unsigned char)(fminf(fmaxf(q, 0.0f), 255.0f) + 0.5f);
}
