"""Error against the number of fakes, rho or labelled images, where a comparison's sets differ in one of these alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.comparison import Comparison, Line
from evaluation.report import Curve

AXES = {
    "nfake_per_class": "fakes of each class",
    "nfake": "fakes in all",
    "rho": "rho: share of the fakes that is kept",
    "real_per_class": "labelled images of each class",
}
_TRAINED_ON = {"real": "real", "mixed": "real + fakes", "fakes": "fakes"}
_SPAN = 8  # largest over smallest value from which the axis is logarithmic
Sets = Mapping[str, Mapping[str, Any]]


def error_curves(comparison: Comparison, sets: Sets) -> dict[str, Curve]:
    """Option -> plot, of each option of AXES in which sets that are equal else have several values.

    sets: name -> options.  Sets of real images alone stand at 0 fakes where there is one with the same other options.
    """
    curves = {}
    for axis in AXES:
        groups = _groups(axis, sets)
        if any(len(names) > 1 for names in groups.values()):
            curves[axis] = _curve(axis, comparison, {label: names for label, names in groups.items() if len(names) > 1})
    return curves


def _groups(axis: str, sets: Sets) -> dict[str, dict[float, str]]:
    """Label -> value of the axis -> the set's name; sets of one label differ in the axis alone."""
    groups: dict[str, dict[float, str]] = {}
    fakes_alone = {"rho", "nfake_per_class", "nfake"}
    for name, options in sets.items():
        value = options.get(axis)
        if options.get("train_on", "mixed") == "real":
            value = value if axis == "real_per_class" else None
        if not isinstance(value, int | float):
            continue
        rest = {key: one for key, one in options.items() if key not in {axis, "train_on"}}
        if options.get("train_on") == "real":
            rest = {key: one for key, one in rest.items() if key not in fakes_alone}
        others = "".join(f", {key.replace('_', ' ')} {one}" for key, one in sorted(rest.items()))
        label = _TRAINED_ON[options.get("train_on", "mixed")] + others
        groups.setdefault(label, {})[float(value)] = name
    if axis in {"nfake_per_class", "nfake"}:
        real = [name for name, options in sets.items() if options.get("train_on") == "real"]
        for label, names in groups.items():
            if len(real) == 1 and label.startswith(_TRAINED_ON["mixed"]):
                names[0.0] = real[0]
    return groups


def _curve(axis: str, comparison: Comparison, groups: Mapping[str, Mapping[float, str]]) -> Curve:
    lines: dict[tuple[str, str, str], Line] = {
        (one.network, one.training_set, one.method): one for one in comparison.lines
    }
    networks, methods = (list(dict.fromkeys(names)) for names in ([key[0] for key in lines], [key[2] for key in lines]))
    series, errors, values = {}, {}, [value for names in groups.values() for value in names if value > 0]
    for network in networks:
        for method in methods:
            for label, names in groups.items():
                points = [lines[network, names[value], method] for value in sorted(names)]
                several = [network] * (len(networks) > 1) + [method] + [label] * (len(groups) > 1)
                series[", ".join(several)] = (sorted(names), [comparison.scale * point.mean for point in points])
                errors[", ".join(several)] = [comparison.scale * (point.spread or 0.0) for point in points]
    return Curve(
        f"Test error against {AXES[axis].partition(':')[0]}",
        AXES[axis],
        f"test error, {comparison.unit}".rstrip(", "),
        series,
        "Mean and standard deviation over seeds.",
        errors,
        logarithmic=max(values) > _SPAN * min(values),
    )
