// Guided filter, step 4: one launch; bytes in, bytes out, everything between stays on the chip.
//
// A block makes TILE x TILE results of one channel. It starts from the pixels around them with
// two halos (R for the sums, R more for the means of a and b) and walks through four stages, each
// one-dimensional, each from shared memory to shared memory:
//
//     pixels (IN x IN)  --rows-->  sums, squares (IN x MID)  --columns-->  a, b (MID x MID)
//                       --rows-->  sums of a, b (MID x TILE) --columns-->  results (TILE x TILE)
//
// Global memory sees each pixel read about ((TILE+4R)/TILE)^2 times, mostly from cache, and each
// result written once: 2 bytes per value instead of 19 (step 1) or 51 (step 3). The halo is
// computed again by each neighbour; that is the price of not passing it through global memory.
//
// A thread sums SEG neighbouring windows in one walk: the first by 2R+1 additions, each next one
// by adding what enters and subtracting what leaves. Walks along rows give neighbouring threads
// neighbouring ROWS, and rows are an odd number of words apart, so that the 32 threads of a warp
// hit 32 different banks of shared memory.
//
// What is stored beyond the image is 0 and is not counted: windows are clipped to the image.
//
// Block (THREADS); grid (tiles across, tiles down, channels). -DR=4 -DTILE=32 -DTHREADS=256.
// TILE is a multiple of SEG. Shared memory stays under 48 KB: TILE 32 to R = 8, 24 to 12, 16 to 16.

#define SEG 8
#define IN (TILE + 4 * R)
#define MID (TILE + 2 * R)
#define IN_PITCH (((IN + 3) / 4 | 1) * 4)  // bytes
#define MID_PITCH (MID | 1)                // values
#define TILE_PITCH (TILE | 1)              // values
#define WALKS(length) (((length) + SEG - 1) / SEG)

#ifndef STORE  // step 5 stores something else
#define RESULT unsigned char
#define STORE(q) out[(y * width + x) * channels + c] = (unsigned char)((q) + 0.5f)
#endif

struct RowSums {
    unsigned int squares[IN * MID_PITCH];
    unsigned short sums[IN * MID_PITCH];  // 33 * 255 fits
};

struct CoefficientSums {
    float a[MID * TILE_PITCH];
    float b[MID * TILE_PITCH];
};

extern "C" __global__ void fused(const unsigned char *image, RESULT *out,
                                 int width, int height, int channels, float eps)
{
    __shared__ unsigned char pixels[IN * IN_PITCH];
    __shared__ float a[MID * MID_PITCH], b[MID * MID_PITCH];
    __shared__ union { RowSums rows; CoefficientSums means; } room;  // never needed at once

    int x0 = blockIdx.x * TILE, y0 = blockIdx.y * TILE, c = blockIdx.z;  // first result

    // Pixels and both halos.
    for (int i = threadIdx.x; i < IN * IN; i += THREADS) {
        int column = i % IN, row = i / IN;
        int x = x0 - 2 * R + column, y = y0 - 2 * R + row;
        bool inside = x >= 0 && x < width && y >= 0 && y < height;
        pixels[row * IN_PITCH + column] = inside ? image[(y * width + x) * channels + c] : 0;
    }
    __syncthreads();

    // Along rows: sums of pixels and of their squares, exact in whole numbers.
    for (int i = threadIdx.x; i < IN * WALKS(MID); i += THREADS) {
        int row = i % IN, first = i / IN * SEG, last = min(first + SEG, MID);
        const unsigned char *from = pixels + row * IN_PITCH;
        int sum = 0, square = 0;
        for (int u = first; u < first + 2 * R; u++) {  // all but the pixel that enters next
            int value = from[u];
            sum += value;
            square += value * value;
        }
        for (int column = first; column < last; column++) {
            int enters = from[column + 2 * R], leaves = from[column];
            sum += enters;
            square += enters * enters;
            room.rows.sums[row * MID_PITCH + column] = sum;
            room.rows.squares[row * MID_PITCH + column] = square;
            sum -= leaves;
            square -= leaves * leaves;
        }
    }
    __syncthreads();

    // Down columns: the sums of whole windows, and from them a and b.
    for (int i = threadIdx.x; i < MID * WALKS(MID); i += THREADS) {
        int column = i % MID, first = i / MID * SEG, last = min(first + SEG, MID);
        int x = x0 - R + column;
        int across = min(x + R, width - 1) - max(x - R, 0) + 1;
        int sum = 0, square = 0;
        for (int v = first; v < first + 2 * R; v++) {
            sum += room.rows.sums[v * MID_PITCH + column];
            square += room.rows.squares[v * MID_PITCH + column];
        }
        for (int row = first; row < last; row++) {
            sum += room.rows.sums[(row + 2 * R) * MID_PITCH + column];
            square += room.rows.squares[(row + 2 * R) * MID_PITCH + column];
            int y = y0 - R + row;
            int down = min(y + R, height - 1) - max(y - R, 0) + 1;
            float slope = 0.0f, offset = 0.0f;
            if (x >= 0 && x < width && y >= 0 && y < height) {
                float share = 1.0f / (across * down);
                float mean = sum * share;
                float variance = fmaxf(square * share - mean * mean, 0.0f);
                slope = variance / (variance + eps);
                offset = (1.0f - slope) * mean;
            }
            a[row * MID_PITCH + column] = slope;
            b[row * MID_PITCH + column] = offset;
            sum -= room.rows.sums[row * MID_PITCH + column];
            square -= room.rows.squares[row * MID_PITCH + column];
        }
    }
    __syncthreads();  // also: `room` changes its use below

    // Along rows: sums of a and b.
    for (int i = threadIdx.x; i < MID * WALKS(TILE); i += THREADS) {
        int row = i % MID, first = i / MID * SEG;
        float sum_a = 0.0f, sum_b = 0.0f;
        for (int u = first; u < first + 2 * R; u++) {
            sum_a += a[row * MID_PITCH + u];
            sum_b += b[row * MID_PITCH + u];
        }
        for (int column = first; column < first + SEG; column++) {
            sum_a += a[row * MID_PITCH + column + 2 * R];
            sum_b += b[row * MID_PITCH + column + 2 * R];
            room.means.a[row * TILE_PITCH + column] = sum_a;
            room.means.b[row * TILE_PITCH + column] = sum_b;
            sum_a -= a[row * MID_PITCH + column];
            sum_b -= b[row * MID_PITCH + column];
        }
    }
    __syncthreads();

    // Down columns: mean(a) * I + mean(b).
    for (int i = threadIdx.x; i < TILE * WALKS(TILE); i += THREADS) {
        int column = i % TILE, first = i / TILE * SEG;
        int x = x0 + column;
        if (x >= width) continue;
        int across = min(x + R, width - 1) - max(x - R, 0) + 1;
        float sum_a = 0.0f, sum_b = 0.0f;
        for (int v = first; v < first + 2 * R; v++) {
            sum_a += room.means.a[v * TILE_PITCH + column];
            sum_b += room.means.b[v * TILE_PITCH + column];
        }
        for (int row = first; row < first + SEG; row++) {
            int y = y0 + row;
            if (y >= height) break;
            sum_a += room.means.a[(row + 2 * R) * TILE_PITCH + column];
            sum_b += room.means.b[(row + 2 * R) * TILE_PITCH + column];
            int down = min(y + R, height - 1) - max(y - R, 0) + 1;
            float value = pixels[(row + 2 * R) * IN_PITCH + column + 2 * R];
            float q = (sum_a * value + sum_b) / (across * down);
            q = fminf(fmaxf(q, 0.0f), 255.0f);
            STORE(q);
            sum_a -= room.means.a[row * TILE_PITCH + column];
            sum_b -= room.means.b[row * TILE_PITCH + column];
        }
    }
}
