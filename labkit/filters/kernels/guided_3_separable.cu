// Guided filter, step 3: a square window is a row of columns.
//
// The sum over (2R+1) x (2R+1) pixels is a sum of row sums: first along x, then down y. That is
// 2(2R+1) additions instead of (2R+1)^2, 18 instead of 81 for R = 4. And a column of sums can be
// walked: one row down, one row sum enters and one leaves, so the second half costs 2 additions
// whatever R is. The price is memory: the row sums pass through global memory between launches,
// and there are four launches.
//
// Rows:    block (TILE, 1), grid (tiles across, height, channels); TILE threads share one row.
// Columns: block (TILE, 1), grid (tiles across, strips, channels); a thread walks STRIP rows.
// -DR=4 -DTILE=128 -DSTRIP=16

#define SIDE (TILE + 2 * R)

extern "C" __global__ void sum_rows(const unsigned char *image, int *sums, int *squares,
                                    int width, int height, int channels)
{
    __shared__ unsigned char row[SIDE];
    int x0 = blockIdx.x * TILE - R, y = blockIdx.y, c = blockIdx.z;
    for (int i = threadIdx.x; i < SIDE; i += TILE) {
        int u = x0 + i;
        row[i] = u >= 0 && u < width ? image[(y * width + u) * channels + c] : 0;
    }
    __syncthreads();

    int x = x0 + R + threadIdx.x;
    if (x >= width) return;
    int sum = 0, square = 0;
    for (int u = 0; u <= 2 * R; u++) {
        int value = row[threadIdx.x + u];
        sum += value;
        square += value * value;
    }
    int here = (y * width + x) * channels + c;
    sums[here] = sum;
    squares[here] = square;
}

extern "C" __global__ void column_coefficients(const int *sums, const int *squares, float *a, float *b,
                                               int width, int height, int channels, float eps)
{
    int x = blockIdx.x * TILE + threadIdx.x, c = blockIdx.z;
    int first = blockIdx.y * STRIP, last = min(first + STRIP, height);
    if (x >= width) return;
    float across = min(x + R, width - 1) - max(x - R, 0) + 1;
    int sum = 0, square = 0;
    for (int v = max(first - R, 0); v < min(first + R, height); v++) {  // all but the row that enters next
        sum += sums[(v * width + x) * channels + c];
        square += squares[(v * width + x) * channels + c];
    }
    for (int y = first; y < last; y++) {
        if (y + R < height) {
            sum += sums[((y + R) * width + x) * channels + c];
            square += squares[((y + R) * width + x) * channels + c];
        }
        float count = across * (min(y + R, height - 1) - max(y - R, 0) + 1);
        float mean = sum / count;
        float variance = fmaxf(square / count - mean * mean, 0.0f);
        float slope = variance / (variance + eps);
        a[(y * width + x) * channels + c] = slope;
        b[(y * width + x) * channels + c] = (1.0f - slope) * mean;
        if (y - R >= 0) {
            sum -= sums[((y - R) * width + x) * channels + c];
            square -= squares[((y - R) * width + x) * channels + c];
        }
    }
}

extern "C" __global__ void sum_coefficient_rows(const float *a, const float *b, float *sums_a, float *sums_b,
                                                int width, int height, int channels)
{
    __shared__ float row_a[SIDE], row_b[SIDE];
    int x0 = blockIdx.x * TILE - R, y = blockIdx.y, c = blockIdx.z;
    for (int i = threadIdx.x; i < SIDE; i += TILE) {
        int u = x0 + i;
        bool inside = u >= 0 && u < width;
        row_a[i] = inside ? a[(y * width + u) * channels + c] : 0.0f;
        row_b[i] = inside ? b[(y * width + u) * channels + c] : 0.0f;
    }
    __syncthreads();

    int x = x0 + R + threadIdx.x;
    if (x >= width) return;
    float sum_a = 0.0f, sum_b = 0.0f;
    for (int u = 0; u <= 2 * R; u++) {
        sum_a += row_a[threadIdx.x + u];
        sum_b += row_b[threadIdx.x + u];
    }
    int here = (y * width + x) * channels + c;
    sums_a[here] = sum_a;
    sums_b[here] = sum_b;
}

extern "C" __global__ void apply_columns(const unsigned char *image, const float *sums_a, const float *sums_b,
                                         unsigned char *out, int width, int height, int channels)
{
    int x = blockIdx.x * TILE + threadIdx.x, c = blockIdx.z;
    int first = blockIdx.y * STRIP, last = min(first + STRIP, height);
    if (x >= width) return;
    float across = min(x + R, width - 1) - max(x - R, 0) + 1;
    float sum_a = 0.0f, sum_b = 0.0f;
    for (int v = max(first - R, 0); v < min(first + R, height); v++) {
        sum_a += sums_a[(v * width + x) * channels + c];
        sum_b += sums_b[(v * width + x) * channels + c];
    }
    for (int y = first; y < last; y++) {
        if (y + R < height) {
            sum_a += sums_a[((y + R) * width + x) * channels + c];
            sum_b += sums_b[((y + R) * width + x) * channels + c];
        }
        float count = across * (min(y + R, height - 1) - max(y - R, 0) + 1);
        int here = (y * width + x) * channels + c;
        float q = (sum_a * image[here] + sum_b) / count;
        out[here] = (unsigned char)(fminf(fmaxf(q, 0.0f), 255.0f) + 0.5f);
        if (y - R >= 0) {
            sum_a -= sums_a[((y - R) * width + x) * channels + c];
            sum_b -= sums_b[((y - R) * width + x) * channels + c];
        }
    }
}
