// Guided filter, step 6: a block marches down a strip, with the rows of the window in registers.
//
// Step 4 spends its time on instructions, not on memory: it walks through shared memory four times
// and computes an address for each access. Here a thread owns COLUMNS columns. Row after row enters:
//
//     pixel --down--> sums of 2R+1 rows --across--> a, b --down--> their sums --across--> result
//
// Down a column, what leaves the window is what entered 2R+1 rows ago, and that is still in a
// register: the loop over these rows is unrolled, so each has registers of its own. Only the sums
// across go through shared memory, and neighbouring columns share most of what they add up.
//
// a and b are added as whole numbers with SCALE-ths: three can be added in one instruction, and what
// leaves takes away exactly what had entered, so nothing drifts however long the strip is.
//
// A strip of STRIP rows reads 4R rows more, of which 2R cost nothing but their reading and 2R have
// their a and b computed as well. Columns at both ends of a block, 2R each, are computed for their
// neighbours alone.
//
// Block ((TILE + 4R) / COLUMNS); grid (tiles across, strips, channels).
// -DR=4 -DTILE=240 -DCOLUMNS=2 -DSTRIP=32.

#define N (2 * R + 1)
#define WIDE (TILE + 4 * R)               // columns that a block reads
#define SCALE (R <= 10 ? 32768.0f : 8192.0f)  // N * N * 255 * SCALE < 2^32, and 255 * SCALE < 2^23
#define WHOLE 8388608.0f                  // 2^23: floats from here on are whole numbers, in their last bits
#define FIXED(value) __float_as_uint((value) * SCALE + WHOLE)

#ifndef STORE  // step 7 stores something else
#define RESULT unsigned char
#define STORE(q) out[(y * width + x) * channels + c] = (unsigned char)__float_as_uint((q) + WHOLE)
#endif

struct alignas(8) Pair {
    unsigned int first, second;
};

struct alignas(16) Row {
    Pair at[WIDE + 2 * R];  // column i at i + R
};

extern "C" __global__ void march(const unsigned char *image, RESULT *out,
                                 int width, int height, int channels, float eps)
{
    __shared__ Row sums, means;

    int c = blockIdx.z, mine = threadIdx.x * COLUMNS;
    int x0 = blockIdx.x * TILE - 2 * R + mine, y0 = blockIdx.y * STRIP;

    int pixel[N][COLUMNS] = {};  // rows of the window; slot = row % N
    unsigned int slope[N][COLUMNS], offset[N][COLUMNS];
    for (int i = 0; i < N; i++)
        for (int k = 0; k < COLUMNS; k++) slope[i][k] = offset[i][k] = FIXED(0.0f);
    unsigned int sum[COLUMNS] = {}, square[COLUMNS] = {}, sum_a[COLUMNS] = {}, sum_b[COLUMNS] = {};
    bool inside[COLUMNS], stored[COLUMNS];
    float per_column[COLUMNS];  // 1 / columns that a window has inside the image
    const unsigned char *from[COLUMNS];
    for (int k = 0; k < COLUMNS; k++) {
        int x = x0 + k, across = min(x + R, width - 1) - max(x - R, 0) + 1;
        inside[k] = x >= 0 && x < width;
        stored[k] = x < width && mine + k >= 2 * R && mine + k < WIDE - 2 * R;
        per_column[k] = inside[k] ? 1.0f / across : 0.0f;
        from[k] = image + min(max(x, 0), width - 1) * channels + c;
    }

#define ENTER(slot, y)                                                    \
    {                                                                     \
        int at = min(max(y, 0), height - 1) * width * channels;           \
        for (int k = 0; k < COLUMNS; k++) {                               \
            int value = from[k][at], leaves = pixel[slot][k];             \
            if (y < 0 || y >= height || !inside[k]) value = 0;            \
            pixel[slot][k] = value;                                       \
            sum[k] += value - leaves;                                     \
            square[k] += value * value - leaves * leaves;                 \
        }                                                                 \
    }
#pragma unroll
    for (int slot = 0; slot < 2 * R; slot++) ENTER(slot, y0 - 2 * R + slot)

    for (int begin = 0; begin < STRIP + 2 * R; begin += N) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int slot = (i + 2 * R) % N;
            int step = begin + i, enters = y0 + step;
            if (step >= STRIP + 2 * R) return;
            ENTER(slot, enters)

            // Across: the sums of whole windows, and from them a and b of the row `enters - R`.
            for (int k = 0; k < COLUMNS; k++) sums.at[mine + R + k] = {sum[k], square[k]};
            __syncthreads();
            int middle = enters - R;
            float per_row = __fdividef(1.0f, min(middle + R, height - 1) - max(middle - R, 0) + 1);
            if (middle < 0 || middle >= height) per_row = 0.0f;
            Pair window = {0, 0};
            for (int u = 0; u < 2 * R; u++) {
                window.first += sums.at[mine + u].first;
                window.second += sums.at[mine + u].second;
            }
            for (int k = 0; k < COLUMNS; k++) {
                window.first += sums.at[mine + 2 * R + k].first;
                window.second += sums.at[mine + 2 * R + k].second;
                float share = per_row * per_column[k];  // 0 outside of the image, where a and b are 0
                float mean = window.first * share;
                float variance = fmaxf(window.second * share - mean * mean, 0.0f);
                float a = __fdividef(variance, variance + eps);
                unsigned int new_a = FIXED(a), new_b = FIXED(mean - a * mean);
                sum_a[k] += new_a - slope[slot][k];
                sum_b[k] += new_b - offset[slot][k];
                slope[slot][k] = new_a;
                offset[slot][k] = new_b;
                window.first -= sums.at[mine + k].first;
                window.second -= sums.at[mine + k].second;
            }

            // Across: the sums of a and b, and from them the results of the row `enters - 2 R`.
            for (int k = 0; k < COLUMNS; k++) means.at[mine + R + k] = {sum_a[k], sum_b[k]};
            __syncthreads();
            if (step < 2 * R) continue;
            int y = enters - 2 * R;
            if (y >= height) return;
            per_row = __fdividef(1.0f / SCALE, min(y + R, height - 1) - max(y - R, 0) + 1);
            window = {0, 0};
            for (int u = 0; u < 2 * R; u++) {
                window.first += means.at[mine + u].first;
                window.second += means.at[mine + u].second;
            }
            for (int k = 0; k < COLUMNS; k++) {
                window.first += means.at[mine + 2 * R + k].first;
                window.second += means.at[mine + 2 * R + k].second;
                float value = pixel[(slot + 1) % N][k];  // which entered 2R rows ago
                float q = ((float)window.first * value + window.second) * (per_row * per_column[k]);
                int x = x0 + k;
                if (stored[k]) STORE(q);
                window.first -= means.at[mine + k].first;
                window.second -= means.at[mine + k].second;
            }
        }
    }
}
