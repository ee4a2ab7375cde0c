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
