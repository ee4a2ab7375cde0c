"""Hints for the exercises, in steps: each says more than the one before, none is the solution."""

from __future__ import annotations

from labkit.core.errors import UsageError
from labkit.core.terminal import print_text

HINTS = {
    "to_corners": (
        "Two things change: shares of the frame become pixels, and a centre becomes two corners. Which of "
        "the two comes first does not matter.",
        "x and width are shares of the frame's width, y and height of its height. A box begins half its "
        "width left of its centre.",
        "With an array of shape (N, 4), the transpose .T gives four arrays of N numbers; numpy.stack with "
        "axis=1 puts four such arrays side by side again.",
    ),
    "normalise": (
        "Three things happen, in this order: the bytes become numbers in [0, 1], mean and standard deviation "
        "are applied per channel, and the axes are put into the order that a network expects.",
        "While the channels are the last axis, an array of 3 values acts on each channel by itself: "
        "(image / 255 - MEAN) / STD.",
        "transpose(2, 0, 1) puts channels first; indexing with [None] adds the batch axis in front; "
        "astype(np.float32) comes last, because the steps before give float64.",
    ),
    "from_camera": (
        "Which axis of (H, W, 3) holds the colours, and in which order do they stand there?",
        "They stand in the last axis, and it has to be turned round: what was first becomes last.",
        "OpenCV converts with cv2.cvtColor and a code that names both orders; with NumPy, a step of -1 along "
        "an axis turns it round.",
    ),
    "on_gpu": (
        "An operation works where its tensors lie. Where does the network lie, and where does x?",
        'x.to("cuda") gives a copy of x on the GPU, on which the network can work; softmax(-1) makes '
        "probabilities of its logits, and [0] takes the only picture of the batch.",
        "NumPy cannot see the GPU's memory; the error of .numpy() says which method copies a tensor to the "
        "host first.",
    ),
    "device_time": (
        "The host asks and goes on. When can the device begin with a frame, at the earliest?",
        "Two things have to be over: the host has asked, at asked_s[k], and the frame before is done, at "
        "done_s[k - 1]. It begins at the later of the two.",
        "numpy.maximum(asked_s[1:], done_s[:-1]) are the beginnings from the second frame on; the first one "
        "begins at asked_s[0].",
    ),
    "best_boxes": (
        "What has to be known on the host? Not the scores of all queries, only the rows of the best k: "
        "sort, pick and compute as tensors, where the numbers lie.",
        "softmax(-1) turns logits into probabilities; the last column is dropped after it; max(-1) gives "
        "each query's score and its label at once, and topk(k) the k best scores with the queries that they "
        "belong to.",
        "Pick boxes and labels by the same queries. A box is a centre and a size: half the size goes off to "
        "the left and top, and is added for the right and bottom.",
        "torch.cat([...], 1) joins corners, score[:, None] and label[:, None] into one tensor, so that one "
        ".cpu().numpy() reads everything; NumPy can multiply by (width, height) afterwards, on the host.",
    ),
    "corners": (
        "A pixel that the box touches at all belongs to the cut: which way is each side rounded?",
        "math.floor for the left and the top, math.ceil for the right and the bottom; then keep each inside "
        "the frame with min and max.",
        "A cut of no pixels cannot be named: the left goes up to width - 1 at most, and the right lies at "
        "least one pixel beyond the left. The same holds for top and bottom.",
    ),
    "name_crops": (
        "A network takes (n, 3, h, w) as gladly as (1, 3, h, w). Which n, and how do n tensors become one?",
        "torch.stack(crops) makes one tensor with a new first axis; it goes to the device once, and the "
        "module is called once.",
        "softmax(-1).max(-1) gives a score and a label per crop. Two results need not be two reads: as one "
        "tensor, labels turned into floats, they travel together.",
    ),
    "brighten": (
        "A byte holds 0 to 255. What is 230 + 40 as a byte?",
        "The sum of two whole numbers is an int and may well be 270; only writing it into `out` makes it a "
        "byte. So it has to be limited before.",
        "CUDA has min(a, b) for whole numbers: the smaller one of the sum and the largest byte.",
    ),
    "guard": (
        "Whole blocks are launched, so there are more threads than values. What should the others do?",
        "A thread knows its own number i and how many values there are.",
        "An if with return, before anything is read or written, for every i from n on.",
    ),
    "flip": (
        "y is to rows what x is to columns: the block's number times the block's height, and the place in "
        "the block.",
        "Pixel (x, y) stands at y * width + x. Two edges have to be guarded now, the right and the lower.",
        "The first column takes its value from the last, which is width - 1, the second from the one before "
        "it: how far from the right end is the one that belongs to x?",
    ),
    "edges": (
        "tile[t + 1] is this thread's own pixel. Which thread fills tile[0], and which tile[TILE + 1]?",
        "The first thread of the block has a left neighbour to load, and the last one a right neighbour. At "
        "the ends of the row both are clamped: max(x - 1, 0), min(x + 1, width - 1).",
        "Between the last line that fills the tile and the first that reads it, everybody waits for "
        "everybody. A thread that has returned before cannot have loaded anything, so the guard comes later.",
    ),
    "box_mean": (
        "A window is two loops, one over rows v and one over columns u, around this thread's pixel.",
        "It is clipped to the image: columns go from max(x - R, 0) to min(x + R, width - 1), both included, "
        "and rows likewise.",
        "Divide by the pixels that are really inside: the number of rows times the number of columns. The "
        "division of two ints drops the fraction, so make one side of it a float.",
    ),
    "tiled_box_mean": (
        "The block's windows together reach R pixels beyond the block, on all four sides: TILE + 2 * R each "
        "way. There are more places than threads, so a thread fills several.",
        "Number the places: thread i of the block fills place i, i + TILE * TILE, and so on. The place's row "
        "and column in the tile are i / SIDE and i % SIDE. What is outside the image becomes 0.",
        "After everybody has waited, thread (threadIdx.x, threadIdx.y) sums the (2R+1) x (2R+1) places from "
        "its own place in the tile on. The count is that of the clipped window, as before.",
    ),
    "guided": (
        "It is the box mean twice, of a and of b, with channels: a value stands at "
        "(y * width + x) * channels + c.",
        "Two sums in the same two loops, one for a and one for b, each divided by the pixels that are really "
        "inside. The line of the means is then taken at this pixel's own grey level.",
        "Keep the result within 0 and 255, and add 0.5f before it is cut to a byte: that rounds it.",
    ),
    "launch": (
        "A stream keeps the order of its own steps and knows nothing of other streams. Which step reads "
        "what was written on the other one?",
        "net.streams.after(later, earlier) makes what comes next on the one wait for all that the other was "
        "given so far. So its place matters: what has been given to the earlier stream there, and what "
        "has the later one still to get?",
        "One line is enough, between the two blocks. Whoever also makes the next upload wait for the "
        "network gets right answers and gains nothing: the check looks for that.",
    ),
    "filter_beside": (
        "Run it, and read the report: which line reads what which other line may still be writing?",
        "later.wait_stream(earlier) makes what comes next on the one stream wait for all that the other was "
        "asked for so far. The network reads what the filter writes.",
        "The filter itself reads x, which the current stream still uploads: torch.cuda.current_stream() is "
        "one more stream to wait for, before the first block.",
    ),
    "keep_memory": (
        "Who holds the filtered picture when the function has returned, and has the network read it by then?",
        "The memory goes back to the stream on which it was made, whose next operation may overwrite it. "
        "The allocator has to know which other stream uses it.",
        "A tensor has the method record_stream: call it on the one that is freed, with the stream that "
        "still reads it, after the network was asked.",
    ),
    "start_copy": (
        "A copy that does not block needs page-locked memory at the host, and somebody who says when it is "
        "over. Which stream writes scores, and which reads them?",
        "torch.empty(..., pin_memory=True) makes the host's side; copy_ with non_blocking=True fills it. "
        "The stream of the copy waits for the current one first.",
        "The event belongs on the stream of the copy, after it: a stream has record_event(). And the "
        "scores must outlive the copy, as in the exercise before.",
    ),
    "fold": (
        "Write the norm down as scale * y + shift, with one scale and one shift per output channel. What are "
        "they, in terms of gamma, var, eps, mean and beta?",
        "scale = gamma / sqrt(var + eps) and shift = beta - scale * mean. A convolution is linear: scaling "
        "its output is scaling its weights.",
        "The output channels are the first axis of the weight; index the scale with three times None behind "
        "it, so that it acts on that axis. The shift is the bias.",
    ),
    "speed_up": (
        "Call the whole time 1. How much of it does the part take afterwards, and how much the rest?",
        "The rest takes 1 - share, as before. The part takes share / part_factor.",
        "The gain is the old time over the new time, and the old time is 1.",
    ),
    "fps": (
        "Frames per second is a number of frames over the time in which they were finished. Which frames "
        "are left when the warm-up is taken off, and when did their time begin?",
        "The timed part begins when the last warm-up frame was done: at done_s[warm - 1], or at 0 where "
        "there is no warm-up. It ends with the last frame.",
        "There are len(done_s) - warm frames in it. One division remains; no frame's own rate is needed.",
    ),
    "paced_latency": (
        "A viewer does not care when your loop found the time to look at a frame. From when does he wait?",
        "Frame k is due at k / fps, whether or not anybody is ready for it. Where is began_s needed then?",
        "numpy.arange(n) / fps are the times at which n frames are due; subtract them from done_s.",
    ),
    "as_input": (
        "How many times does the inner line run for one frame, and how many pixels are left after the "
        "shrinking?",
        "Shrinking and normalising may change places: both treat each channel by itself, and a mean of "
        "normalised values is the normalised mean.",
        "First cv2.resize on the bytes; then one line of arithmetic on the whole (h, w, 3) array, in "
        "float32, and transpose(2, 0, 1).",
    ),
    "name_best": (
        "How many names does the loop make for a frame, and how many does it hand on?",
        "Only the scores decide which queries are kept; no name is needed for that.",
        "Sort the numbers of the queries by their scores, keep k of them, and call name for these.",
    ),
    "suppress": (
        "How many pairs are compared, and how many tensor operations is one comparison?",
        "An operation on a tensor of one number costs as much as one on a tensor of thousands: compare one "
        "box with all others at once, or all with all.",
        "torchvision.ops has a function for non-maximum suppression that takes just these three values.",
    ),
    "one_read": (
        "Leave the values where they are: sort, pick and join as tensors, and bring only the result to the "
        "host.",
        "scores.topk(k) gives the k best scores and which queries they belong to, best first; the same "
        "numbers pick the boxes.",
        "torch.cat([score[:, None], boxes[query]], 1) is the table, still a tensor; .cpu().numpy() is the "
        "one read.",
    ),
    "keep_newest": (
        "The new frame always stays. How many are there with it, and by how many is that too many?",
        "The oldest stand first, so what has to go is at the front of the list.",
        "Two slices of one list: up to the number of those too many, and from there on. Mind the case in "
        "which none is too many.",
    ),
    "engines_needed": (
        "Begin with one engine and one camera: which share of its time does an engine spend on it?",
        "One camera takes fps * frame_s of an engine's time. Of most_busy, how many whole cameras is that?",
        "math.floor for cameras per engine, math.ceil for engines: half an engine cannot be bought.",
    ),
}


def hint(exercise: str, step: int = 1) -> None:
    """Print a hint for an exercise; each step says more than the one before."""
    print_text(hint_text(exercise, step))


def hint_text(exercise: str, step: int = 1) -> str:
    """One hint, with the number of hints that there are.

    Args:
        exercise: a name in `HINTS`, such as "normalise" or "kernel".
        step: from 1.

    Raises:
        UsageError: there is no such exercise or step; the message lists what there is.
    """
    if exercise not in HINTS:
        raise UsageError(f"there is no exercise {exercise!r}; there are {', '.join(HINTS)}")
    steps = HINTS[exercise]
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= len(steps):
        raise UsageError(f"the exercise {exercise!r} has hints 1 to {len(steps)}, not {step!r}")
    more = "" if step == len(steps) else f' For more: lesson.hint("{exercise}", {step + 1}).'
    return f"Hint {step} of {len(steps)}: {steps[step - 1]}{more}"
