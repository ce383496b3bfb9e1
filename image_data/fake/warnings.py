"""What in a dataset's numbers should worry its owner: labels that starve or collapse, a density ratio that is not one.

Pure: numbers in (`describe_fakes`, a filter's card, `label_variety`), sentences out.  Each warning is one sentence with
the label or the number and the remedy, one for each kind, however many labels it is about.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STARVING = 0.25  # of the median label's acceptance: four times the work, and few candidates to choose from
SCARCE = 0.02  # acceptance over all labels: fifty forward passes for a fake cost more than most filters are worth
MEAN_FACTOR = 1.5  # of 1, over all candidates: early stopping leaves 0.9 or so on digits, noise far less
LABEL_MEAN_FACTOR = 2.0  # of the median label: one network for all labels is looser there, and M takes a constant out
REAL_MEAN = 5.0  # times that of fakes: E_real[r] = E[r²] / E[r] over fakes, so a fifth of them carries all the weight
OVERFIT = 1.5  # training reals over held-out reals; digits give 1.1
LEAST_SPREAD = 0.1  # standard deviation over mean of r: below, acceptance hardly tells one fake from another
CLIPPED = 0.02  # of the ratios' sum: the 0.1 % of candidates above M then hold twenty times their share
LABEL_CLIPPED = 0.05  # on one label, whose pilot is small
LESS_VARIED = 0.25  # of the typical distance between two images of a label; the least varied digit has 0.7
NEAR_IDENTICAL = 0.5  # of a label's sampled images; real ones have none
FEW_LEVELS = 2.0  # grey levels between two images of a typical label: all labels have collapsed
DUPLICATES = 0.25  # of a label's fakes, where 1 % of real images lie as near to each other
MEMORISED = 0.05  # of all fakes, where 1 % of fresh real images lie as near to a training image
LABEL_MEMORISED = 0.10  # of a label's fakes
KEPT = 0.25  # of the median label's fakes that --keep leaves
_LEAST_FAKES = 3  # of a label: no share of fewer is a finding
_SIGMAS = 3.0  # a label's number has to be off by so many standard errors, too
_NAMED = 3  # labels named in a sentence


@dataclass(frozen=True)
class Warned:
    """One warning: its kind (starving, collapsed, ...), the labels that it is about, and the sentence."""

    kind: str
    text: str
    labels: tuple[Any, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "text": self.text, "labels": list(self.labels)}


def warnings_of(
    described: Mapping[str, Any],
    card: Mapping[str, Any] | None = None,
    variety: Mapping[str, Any] | None = None,
    kept: Mapping[str, Any] | None = None,
) -> list[Warned]:
    """All warnings.  described: `describe_fakes`; card: the filter's; variety: `label_variety`; kept: {"by_label":
    [{label, images}]}, what a --keep leaves.
    """
    warnings = [
        *_starving(described),
        *_collapsed(described, variety),
        *_mean_ratio(described),
        *_real_means(card),
        *_constant(described, card),
        *_clipped(described),
        *_memorised(described),
        *_errors(described),
        *_kept(described, kept),
    ]
    return warnings


def label_name(space: Mapping[str, Any], label: Any) -> str:
    """The text of a label: the class's name, or the value with its unit."""
    if space["kind"] == "classes":
        return str(space["names"][int(label)])
    values = label if isinstance(label, Sequence) else [label]
    text = ", ".join(f"{float(value):.6g}" for value in values)
    return f"{text} {space.get('unit', '')}".strip()


def _named(described: Mapping[str, Any], labels: Sequence[Any]) -> str:
    """`label a`, `labels a and b`, `labels a, b, c and 7 more`."""
    names = [label_name(described["label_space"], label) for label in labels[:_NAMED]]
    more = len(labels) - len(names)
    parts = [*names, f"{more} more"] if more else names
    listed = ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"label{'s' if len(labels) > 1 else ''} {listed}"


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2.0


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _starving(described: Mapping[str, Any]) -> list[Warned]:
    if not described["rejects"]:
        return []
    overall = float(described["acceptance_rate"])
    if overall < SCARCE:
        text = (
            f"only {_percent(overall)} of the candidates are accepted, {round(1 / max(overall, 1e-9))} forward passes "
            "for a fake; lower --ceiling-quantile (0.99), or fit the filter again with a larger --penalty."
        )
        return [Warned("starving", text)]
    entries = [entry for entry in described["by_label"] if entry["candidates"]]
    median = _median([entry["acceptance_rate"] for entry in entries]) if entries else 0.0
    low = []
    for entry in entries:
        rate, count = float(entry["acceptance_rate"]), int(entry["candidates"])
        error = math.sqrt(max(rate, 1.0 / count) * (1.0 - min(rate, 1.0)) / count)
        planned = entry.get("planned", described["per_label"])
        if rate + _SIGMAS * error < STARVING * median or entry["images"] < planned:
            low.append(entry)
    if not low:
        return []
    low.sort(key=lambda entry: entry["acceptance_rate"])
    worst = low[0]
    peaks = [entry["ceiling"] / entry["mean_ratio"] for entry in entries if entry["ceiling"] and entry["mean_ratio"]]
    peaked = worst["ceiling"] and worst["mean_ratio"] and worst["ceiling"] / worst["mean_ratio"] > 2 * _median(peaks)
    remedy = (
        "a few candidates have ratios far above its others: lower --ceiling-quantile (0.99) for sample"
        if peaked
        else "train the teacher longer (--steps), or sample with --filter none"
    )
    text = (
        f"{_named(described, [entry['label'] for entry in low])} starve{'s' if len(low) == 1 else ''}: "
        f"{_percent(worst['acceptance_rate'])} of the candidates are accepted where the median label has "
        f"{_percent(median)}; {remedy}."
    )
    return [Warned("starving", text, tuple(entry["label"] for entry in low))]


def _collapsed(described: Mapping[str, Any], variety: Mapping[str, Any] | None) -> list[Warned]:
    remedy = "look at the report's pictures and train the teacher again (other --steps or --seed)"
    nearest = described.get("nearest")
    if nearest is not None:
        least = max(DUPLICATES, _LEAST_FAKES / max(int(described["per_label"]), 1))
        low = [entry for entry in nearest["by_label"] if entry["duplicate_share_sparse"] > least]
        if not low:
            return []
        low.sort(key=lambda entry: -entry["duplicate_share_sparse"])
        text = (
            f"{_named(described, [entry['label'] for entry in low])} collapse{'s' if len(low) == 1 else ''}: "
            f"{_percent(low[0]['duplicate_share_sparse'])} of the fakes lie as near to another one as 1 % of real "
            f'images do; {remedy}, or thin them out with --keep "duplicate_distance >= 1".'
        )
        return [Warned("collapsed", text, tuple(entry["label"] for entry in low))]
    if variety is None or not variety["by_label"]:
        return []
    typical = float(variety["typical_distance"])
    if typical < FEW_LEVELS:
        text = f"all labels collapse: two images of a label differ by {typical:.1f} of 255 grey levels; {remedy}."
        return [Warned("collapsed", text)]
    low = [
        entry
        for entry in variety["by_label"]
        if entry["mean_distance"] < LESS_VARIED * typical or entry["near_identical_share"] > NEAR_IDENTICAL
    ]
    if not low:
        return []
    low.sort(key=lambda entry: (entry["mean_distance"], -entry["near_identical_share"]))
    worst = low[0]
    text = (
        f"{_named(described, [entry['label'] for entry in low])} collapse{'s' if len(low) == 1 else ''}: of "
        f"{worst['images']} sampled images {_percent(worst['near_identical_share'])} are nearly the same as another, "
        f"and two differ by {worst['mean_distance']:.1f} grey levels where the median label has {typical:.1f}; "
        f"{remedy}, and measure it with score --nearest."
    )
    return [Warned("collapsed", text, tuple(entry["label"] for entry in low))]


def _mean_ratio(described: Mapping[str, Any]) -> list[Warned]:
    ratio = described["candidate_ratio"]
    if ratio is None:
        return []
    warnings = []
    mean = float(ratio["mean"])
    if not 1.0 / MEAN_FACTOR <= mean <= MEAN_FACTOR:
        text = (
            f"the mean density ratio over the {described['candidates']:,} candidates is {mean:.2f}, and theory says 1 "
            "over the teacher's own images: the filter was fitted on another teacher or not calibrated; run fit-filter "
            "again with a larger --penalty."
        )
        warnings.append(Warned("mean ratio", text))
    far = []
    usual = max(_median([float(entry["mean_ratio"]) for entry in described["by_label"]]), 1e-9)
    for entry in described["by_label"]:
        here, count = float(entry["mean_ratio"]), max(int(entry["candidates"]), 1)
        slack = _SIGMAS * float(entry["ratio_deviation"]) / math.sqrt(count)
        if here + slack < usual / LABEL_MEAN_FACTOR or here - slack > usual * LABEL_MEAN_FACTOR:
            far.append((abs(math.log(max(here, 1e-9) / usual)), entry))
    if far:
        far.sort(key=lambda pair: -pair[0])
        entries = [entry for _, entry in far]
        text = (
            f"{_named(described, [entry['label'] for entry in entries])}: the mean density ratio is "
            f"{entries[0]['mean_ratio']:.2f} where the median label has {usual:.2f}, and theory says 1 for each; "
            "acceptance does not mind (r / M), but --weights and a density_ratio in --keep do: run fit-filter with "
            "--ratio per-class or nearest-neighbours."
        )
        warnings.append(Warned("mean ratio of a label", text, tuple(entry["label"] for entry in entries)))
    return warnings


def _real_means(card: Mapping[str, Any] | None) -> list[Warned]:
    """On real images theory says E[r] = E[r²] / E[r] over fakes, which is at least E[r] over fakes."""
    if card is None:
        return []
    means = card["mean_ratio"]
    train, held, fakes = (float(means[name]) for name in ("train_reals", "held_out_reals", "held_out_fakes"))
    warnings = []
    slack = _SIGMAS * float(card["ratio_spread_on_fakes"]) * fakes / math.sqrt(max(card["real_images"]["held_out"], 1))
    if held + slack < fakes and not card["is_constant"]:
        text = (
            f"held-out real images have a mean density ratio of {held:.2f}, and fakes {fakes:.2f}, where theory says "
            "more on real ones: the filter prefers fakes; run fit-filter again with more real images or fewer "
            "--ratio-steps."
        )
        warnings.append(Warned("mean ratio on reals", text))
    if held > REAL_MEAN * fakes:
        text = (
            f"held-out real images have a mean density ratio of {held:.3g} and fakes {fakes:.2g}, so that about "
            f"{_percent(fakes / held)} of the candidates carry all the weight: the teacher's images are easily told "
            "from real ones; train the teacher longer, or give fit-filter a larger --penalty."
        )
        warnings.append(Warned("mean ratio on reals", text))
    if train > OVERFIT * max(held, 1e-9):
        text = (
            f"the mean density ratio is {train:.2f} on training reals and {held:.2f} on held-out ones: the filter has "
            "learnt images by heart; run fit-filter again with a smaller --width, fewer --ratio-steps, or more images."
        )
        warnings.append(Warned("overfitted", text))
    return warnings


def _constant(described: Mapping[str, Any], card: Mapping[str, Any] | None) -> list[Warned]:
    ratio = described["candidate_ratio"]
    if ratio is None or (ratio["spread"] >= LEAST_SPREAD and not (card and card["is_constant"])):
        return []
    text = (
        f"the density ratio is nearly the same on all candidates (standard deviation {_percent(ratio['spread'])} of "
        "its mean), so the filter chooses nothing; run fit-filter with more --ratio-steps or another --ratio, or "
        "sample with --filter none, which is faster."
    )
    return [Warned("constant ratio", text)]


def _clipped(described: Mapping[str, Any]) -> list[Warned]:
    overall = float(described["clipped_mass"])
    high = [entry for entry in described["by_label"] if entry["clipped_mass"] > LABEL_CLIPPED]
    if overall <= CLIPPED and not high:
        return []
    high.sort(key=lambda entry: -entry["clipped_mass"])
    where = f"{_percent(overall)} of the density ratios' mass lies above the ceilings M"
    if high:
        named = _named(described, [entry["label"] for entry in high])
        where = f"{named}: {_percent(high[0]['clipped_mass'])} of the density ratios' mass lies above the ceiling M"
    text = (
        f"{where}, so the best candidates are accepted too seldom; raise --ceiling-quantile (1) or --pilot-candidates, "
        "or give fit-filter a larger --penalty."
    )
    return [Warned("clipped", text, tuple(entry["label"] for entry in high))]


def _memorised(described: Mapping[str, Any]) -> list[Warned]:
    nearest = described.get("nearest")
    if nearest is None:
        return []
    overall = float(nearest["memorised_share"])
    least = max(LABEL_MEMORISED, _LEAST_FAKES / max(int(described["per_label"]), 1))
    high = [entry for entry in nearest["by_label"] if entry["memorised_share"] > least]
    if overall <= MEMORISED and not high:
        return []
    high.sort(key=lambda entry: -entry["memorised_share"])
    where, share = "", overall
    if overall <= MEMORISED:
        where, share = f"{_named(described, [entry['label'] for entry in high])}: ", high[0]["memorised_share"]
    text = (
        f"{where}{_percent(share)} of the fakes are nearer to a training image than 99 % of fresh real images are: "
        "copies; train the teacher on more images or with augmentation, or leave them out with "
        '--keep "memorisation_distance >= 1".'
    )
    return [Warned("memorised", text, tuple(entry["label"] for entry in high))]


def _errors(described: Mapping[str, Any]) -> list[Warned]:
    """Labels on which a predictor does worse than one that has learnt nothing: it takes them for others, as a rule."""
    bound, whose = _ignorant_error(described)
    if bound <= 0.0:  # one class, or one value
        return []
    classes = described["label_space"]["kind"] == "classes"
    unit = "nats" if classes else described["label_space"].get("unit", "")
    doubt = "whose classes may be in another order" if classes else "whose labels may be in another unit"
    warnings = []
    for digest, errors in described.get("scores", {}).items():
        high = [entry for entry in errors["by_label"] if entry.get("q0.5", 0.0) > bound]
        if described["per_label"] < _LEAST_FAKES:
            high = []
        high.sort(key=lambda entry: -entry["q0.5"])
        named, worst = _named(described, [entry["label"] for entry in high]) if high else "all labels", errors["error"]
        if high:
            worst = high[0]
        elif worst.get("q0.5", 0.0) <= bound:
            continue
        error = f"{worst['q0.5']:.3g} {unit}".strip()
        text = (
            f"{named}: the median teacher error is {error}, and {whose} has {bound:.3g}; "
            f"look at the pictures of the report, and score with another --predictor than {digest[:8]}, {doubt}, or "
            "train the teacher longer."
        )
        warnings.append(Warned("teacher error", text, tuple(entry["label"] for entry in high)))
    return warnings


def _ignorant_error(described: Mapping[str, Any]) -> tuple[float, str]:
    """The error of a predictor that has learnt nothing: equal probabilities, or the same value for every image."""
    space = described["label_space"]
    if space["kind"] == "classes":
        return math.log(len(space["names"])), "guessing, ln(classes),"
    values = [entry["label"] for entry in described["by_label"]]
    points = [list(value) if isinstance(value, Sequence) else [value] for value in values]
    middle = [_median([point[axis] for point in points]) for axis in range(len(points[0]))] if points else []
    return (
        sum(math.dist(point, middle) for point in points) / max(len(points), 1),
        "answering with the middle label each time",
    )


def _kept(described: Mapping[str, Any], kept: Mapping[str, Any] | None) -> list[Warned]:
    if kept is None or re.search(r"\blabel\b", str(kept.get("keep", ""))):  # labels left out by name were not wanted
        return []
    counts = [(entry["label"], 0) for entry in described["by_label"]]
    there = {str(entry["label"]): int(entry["images"]) for entry in kept["by_label"]}
    counts = sorted(((label, there.get(str(label), 0)) for label, _ in counts), key=lambda pair: pair[1])
    median = _median([count for _, count in counts])
    low = [label for label, count in counts if count + _SIGMAS * math.sqrt(count) < KEPT * median]
    if not low:
        return []
    text = (
        f"--keep leaves {counts[0][1]} fakes of {_named(described, low)} and {median:g} of the median label; "
        "cut by rank instead (error rank < 0.9), which takes the same share of each label."
    )
    return [Warned("kept", text, tuple(low))]
