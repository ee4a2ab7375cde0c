"""The network waits for its own picture, and for nothing else."""


def launch(frame, slot, net):
    with net.streams.on("preprocess"):
        net.upload(frame.image, slot)
        net.smooth(slot)
    net.streams.after("infer", "preprocess")
    with net.streams.on("infer"):
        net.infer(slot)
        net.copy_back(slot)
