// Edge filter, step 1: one thread per pixel and channel, four neighbours from global memory.
//
//     |I(x+1, y) - I(x-1, y)| + |I(x, y+1) - I(x, y-1)|, at most 255
//
// A neighbour beyond the border is the border pixel itself. One thread per pixel and channel.

extern "C" __global__ void edges(const unsigned char *image, unsigned char *out,
                                 int width, int height, int channels)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    int c = blockIdx.z;
    if (x >= width || y >= height) return;

    int left = image[(y * width + max(x - 1, 0)) * channels + c];
    int right = image[(y * width + min(x + 1, width - 1)) * channels + c];
    int above = image[(max(y - 1, 0) * width + x) * channels + c];
    int below = image[(min(y + 1, height - 1) * width + x) * channels + c];
    out[(y * width + x) * channels + c] = min(abs(right - left) + abs(below - above), 255);
}
