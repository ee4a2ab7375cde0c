// Guided filter, step 1: every thread reads its whole window from global memory.
//
// The filter fits, in the window around each pixel k, a line q = a_k * I + b_k to the image
// (He, Sun and Tang, 2010). Guided by itself, the best line has
//     a_k = variance / (variance + eps)     near 1 at edges (keep), near 0 in flat parts (smooth)
//     b_k = (1 - a_k) * mean
// Each pixel lies in many windows, so its result uses the means of a and b over all of them:
//     q_i = mean_a_i * I_i + mean_b_i
// That needs all a and b around a pixel before its q: two launches, and two float images
// between them. A window has (2R+1)^2 pixels, so each thread reads 81 of them for R = 4.
//
// One thread per pixel and channel: x and y from the grid, the channel from blockIdx.z.
// Windows are clipped to the image, and a mean divides by the pixels that are really in it.
// R is set when compiling (-DR=4). eps is in squared grey levels (0-255).

extern "C" __global__ void coefficients(const unsigned char *image, float *a, float *b,
                                        int width, int height, int channels, float eps)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    int c = blockIdx.z;
    if (x >= width || y >= height) return;  // the last blocks hang over the border

    int left = max(x - R, 0), right = min(x + R, width - 1);
    int top = max(y - R, 0), bottom = min(y + R, height - 1);
    int sum = 0, squares = 0;  // whole numbers: exact up to R = 16
    for (int v = top; v <= bottom; v++)
        for (int u = left; u <= right; u++) {
            int value = image[(v * width + u) * channels + c];
            sum += value;
            squares += value * value;
        }
    float count = (right - left + 1) * (bottom - top + 1);
    float mean = sum / count;
    float variance = fmaxf(squares / count - mean * mean, 0.0f);
    int here = (y * width + x) * channels + c;
    a[here] = variance / (variance + eps);
    b[here] = (1.0f - a[here]) * mean;
}

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
