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
