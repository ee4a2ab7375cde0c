"""The input goes to the network, and the answer comes back to the host, where NumPy lives."""


def on_gpu(net, x):
    probabilities = net(x.to("cuda")).softmax(-1)[0]  # (classes,) on the GPU
    return probabilities.cpu().numpy()
