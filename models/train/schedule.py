"""The learning rate's course: a short rise, a level, a cosine fall to a twentieth in the last part."""
import math


def rate(step, total, warm, level=.3):
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    if done < level:
        return 1.
    return .05 + .95 * .5 * (1 + math.cos(math.pi * (done - level) / (1 - level)))
