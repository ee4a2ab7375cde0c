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
