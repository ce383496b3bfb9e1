"""The report's standing texts: each says, to someone who sees this for the first time, what a part shows."""

from __future__ import annotations

PICTURES = "Each row is one label. Three things to look for:"
PICTURE_QUESTIONS = (
    "Can you name what you see, and is it what the row says?",
    "Do the images of a row differ from one another?",
    "Do the fakes show everything that the real images show?",
)
GRIDS = {
    "real": "Real images, for comparison.",
    "accepted": "Fakes that the teacher drew and the density ratio let through. These are stored.",
    "rejected": (
        "Candidates that the density ratio turned away. A rejected image need not be ugly: rejection also thins out "
        "what the teacher draws more often than it occurs among real images."
    ),
    "filtered out": (
        "Accepted fakes that are left out of training, because a predictor that learnt from real images disagrees "
        "most with the label that was asked for."
    ),
    "student": "Drawn by the light student generator, which learnt from the accepted fakes.",
    "other": "",
}
METHODS = (
    "One light network, trained in different ways. NOKD learns from real images alone; BLKD also imitates a larger "
    "network; cGAN-KD adds the filtered fakes. ± is one standard error; bold is the best of its group."
)
FILTERS = (
    "Fakes pass two gates. The density ratio decides which candidates are stored at all; the predictor's error then "
    "decides which stored fakes a student sees."
)
RATIO_CAPTION = (
    "The density ratio r(x, y) estimates how much more often an image occurs among real images of its label than among "
    "the teacher's. A candidate is accepted with probability r / M, where M is a high quantile of r on a pilot run. "
    "Triangles mark means: theory says 1 on all candidates, and more on real images. Training reals far to the right "
    "of held-out reals would mean that the ratio has learnt images by heart. Values beyond the right edge are drawn in "
    "the last bin."
)
DISTANCES_CAPTION = (
    "How far each fake lies from its nearest training image, in the feature space of the filter. The unit is the "
    "distance below which 1 % of fresh real images lie: a peak below 1 would be copies."
)
STUDENT = (
    "A small generator that takes the teacher's place. It is held against the real images in the same way as its "
    "teacher: a lower distance is better, and KID with its error bar tells whether a difference is more than noise."
)
RHO = (
    "Rho is the share of each class that survives the second filter: the fakes with the lowest error are kept. A small "
    "rho gives clean labels and little variety. It is chosen on validation images, never on test images."
)
RHO_CAPTION_SEEDS = (
    "Points are means over seeds, whiskers one standard error. The band reaches from the best mean to one standard "
    "error above it; the ring marks the rho that was chosen."
)
RHO_CAPTION = (
    "Points are means over seeds and students; the dashed line is rho 1, no filtering. A whisker is half of the "
    "interval of the difference to rho 1, over training seeds and validation images, all rhos together: one that "
    "reaches the line is not resolved from it. The ring marks the choice, a cross a rho that a race has dropped early."
)
PROTOCOL = "What is needed to repeat these numbers, and to know what they can be compared with."


def errors_caption(cuts: bool) -> str:
    """What the error plot shows, with or without cuts."""
    text = (
        "The predictor's error on stored fakes, label by label: the thick bar holds the middle half, the thin line "
        "90 per cent, the gap is the median."
    )
    return f"{text} The stroke is the cut: fakes to the right of it are filtered out." if cuts else text
