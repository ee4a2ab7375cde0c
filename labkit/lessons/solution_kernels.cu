// solves brighten
extern "C" __global__ void brighten(const unsigned char *image, unsigned char *out)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = min(image[i] + 40, 255);  // whole numbers: the sum is no byte yet
}

// solves guard
extern "C" __global__ void brighten(const unsigned char *image, unsigned char *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;  // the last block hangs over the end
    out[i] = min(image[i] + 40, 255);
}

// solves flip
extern "C" __global__ void flip(const unsigned char *image, unsigned char *out, int width, int height)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    out[y * width + x] = image[y * width + width - 1 - x];
}

// solves edges
extern "C" __global__ void edges(const unsigned char *image, unsigned char *out, int width)
{
    __shared__ unsigned char tile[TILE + 2];
    int t = threadIdx.x, x = blockIdx.x * TILE + t;
    const unsigned char *row = image + blockIdx.y * width;
    tile[t + 1] = row[min(x, width - 1)];
    if (t == 0) tile[0] = row[max(x - 1, 0)];
    if (t == TILE - 1) tile[TILE + 1] = row[min(x + 1, width - 1)];
    __syncthreads();  // every thread of the block comes by here, those beyond the row too
    if (x >= width) return;
    out[blockIdx.y * width + x] = abs(tile[t + 2] - tile[t]);
}

// solves box_mean
extern "C" __global__ void box_mean(const unsigned char *image, float *mean, int width, int height)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;

    int left = max(x - R, 0), right = min(x + R, width - 1);  // both inside the image
    int top = max(y - R, 0), bottom = min(y + R, height - 1);
    int sum = 0;
    for (int v = top; v <= bottom; v++)
        for (int u = left; u <= right; u++)
            sum += image[v * width + u];
    int count = (right - left + 1) * (bottom - top + 1);
    mean[y * width + x] = (float)sum / count;
}

// solves guided
extern "C" __global__ void apply(const unsigned char *image, const float *a, const float *b,
                                 unsigned char *out, int width, int height, int channels)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    int c = blockIdx.z;
    if (x >= width || y >= height) return;

    int left = max(x - R, 0), right = min(x + R, width - 1);
    int top = max(y - R, 0), bottom = min(y + R, height - 1);
    float sum_a = 0.0f, sum_b = 0.0f;
    for (int v = top; v <= bottom; v++)
        for (int u = left; u <= right; u++) {
            int there = (v * width + u) * channels + c;
            sum_a += a[there];
            sum_b += b[there];
        }
    float count = (right - left + 1) * (bottom - top + 1);
    int here = (y * width + x) * channels + c;
    float q = (sum_a * image[here] + sum_b) / count;
    out[here] = (unsigned char)(fminf(fmaxf(q, 0.0f), 255.0f) + 0.5f);  // rounds, saturates
}

// solves tiled_box_mean
#define SIDE (TILE + 2 * R)

extern "C" __global__ void box_mean(const unsigned char *image, float *mean, int width, int height)
{
    __shared__ unsigned char tile[SIDE * SIDE];
    int x0 = blockIdx.x * TILE - R, y0 = blockIdx.y * TILE - R;  // corner of the halo
    for (int i = threadIdx.y * TILE + threadIdx.x; i < SIDE * SIDE; i += TILE * TILE) {
        int u = x0 + i % SIDE, v = y0 + i / SIDE;
        bool inside = u >= 0 && u < width && v >= 0 && v < height;
        tile[i] = inside ? image[v * width + u] : 0;
    }
    __syncthreads();

    int x = x0 + R + threadIdx.x, y = y0 + R + threadIdx.y;
    if (x >= width || y >= height) return;
    int sum = 0;
    for (int v = 0; v <= 2 * R; v++)
        for (int u = 0; u <= 2 * R; u++)
            sum += tile[(threadIdx.y + v) * SIDE + threadIdx.x + u];
    int across = min(x + R, width - 1) - max(x - R, 0) + 1;
    int down = min(y + R, height - 1) - max(y - R, 0) + 1;
    mean[y * width + x] = (float)sum / (across * down);
}

