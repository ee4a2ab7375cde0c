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
