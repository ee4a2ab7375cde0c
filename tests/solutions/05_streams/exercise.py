def launch(frame, slot, net):
    with net.lanes.on("preprocess"):
        net.upload(frame.image, slot)
        net.smooth(slot)
    net.lanes.after("infer", "preprocess")
    with net.lanes.on("infer"):
        net.infer(slot)
        net.copy_back(slot)


print(lesson.check_launch(launch))
