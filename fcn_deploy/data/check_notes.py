"""What `data check` says of things that may be as they should be: one line each."""

from collections.abc import Collection, Iterator, Sequence

from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.check_findings import TRAINING, VALIDATION, Findings
from fcn_deploy.data.label_statistics import TINY
from fcn_deploy.data.near_duplicates import NearDuplicate

#: A class in more of the images than this is everywhere; in fewer than so many, rare.
_COMMON, _FEW_IMAGES = 0.8, 10
#: Names of a list that are told, before the rest is only counted.
_NAMES_TOLD = 5


def notes_on(found: Findings, alike: Sequence[NearDuplicate]) -> Iterator[str]:
    """Yield what the user may want to know of the classes, the files and the lists.

    Args:
        found: everything that was seen.
        alike: images of the training and the validation that look alike.
    """
    if found.classes.names and found.classes.notice:
        yield found.classes.notice
    yield from found.layout.unlisted()
    yield from _on_lists(found)
    if alike:
        first = alike[0]
        yield (
            f"{len(alike)} images of val look like images of {found.learned} (e.g. {first.other} "
            f"like {first.name}): frames of one film, or copies? Scores on them prove little"
        )
    yield from _on_masks(found)
    yield from _on_classes(found)


def _on_lists(found: Findings) -> Iterator[str]:
    """Name the lists that nothing is learned from, and what they share with others."""
    for split, names in found.lists.items():
        if split == found.learned or "val" in split:  # as in trainval, of which val is a part
            continue
        others = [*VALIDATION] if not split.startswith("test") else [*VALIDATION, *TRAINING]
        shared = [
            f"{count} of its {len(names)} images are in {_called(found, other)} too"
            for other in others
            if (count := _shared(found, split, other))
        ]
        if split in TRAINING:
            shared = []  # that would be a fault, and is named as one
        if not split.startswith("test"):
            shared.insert(0, f"`train` takes {_called(found, found.learned)} instead")
        if shared:
            yield f"list {_called(found, split)}: {'; '.join(shared)}"


def _called(found: Findings, split: str) -> str:
    place = found.layout.list_place(split)
    return place.name if place.suffix == ".txt" else split


def _shared(found: Findings, split: str, other: str) -> int:
    """Count the names of a list that another holds too, or whose pixels it does."""
    names = {*found.lists[split]} & {*found.lists.get(other, ())}
    for places in found.seen.values():
        if any(place == other for place, _ in places):
            names |= {name for place, name in places if place == split}
    return len(names)


def _on_masks(found: Findings) -> Iterator[str]:
    if found.turned:
        example = next(iter(found.turned.values()))
        yield (
            f"EXIF turns or mirrors {len(found.turned)} images (e.g. {example}): are their masks "
            "drawn upright, as the images are seen?"
        )
    if found.void_beside_one:
        example = next(iter(found.void_beside_one.values()))
        yield (
            f"{len(found.void_beside_one)} masks hold one class and {IGNORE_INDEX} alone (e.g. "
            f"{example}): {IGNORE_INDEX} is void, never a class"
        )
    counted = zip(found.classes.names, found.counts.images, strict=True)
    absent = [name for name, images in counted if not images]
    if absent and found.counts.images.any():
        yield f"classes in no image: {_told(absent)} ({len(absent)} of {len(found.classes.names)})"


def _on_classes(found: Findings) -> Iterator[str]:
    """Name classes of mostly tiny regions, and classes that never occur without another."""
    names, statistics = found.classes.names, found.statistics
    parts = zip(names, statistics.regions.tolist(), statistics.tiny.tolist(), strict=True)
    small = [f"{name} {tiny / of:.0%} of {of}" for name, of, tiny in parts if tiny > of / 2]
    if small:
        yield f"regions of fewer than {TINY} pixels: {_told(small)}"
    together, images = statistics.together, statistics.together.diagonal()
    bound = [
        f"{names[one]} without {names[other]}"
        for one in range(len(names))
        for other in range(len(names))
        if one != other
        and images[one] >= _FEW_IMAGES
        and together[one, other] == images[one]
        and images[other] <= _COMMON * found.counts.images.max()
    ]
    if bound:
        yield f"never seen: {_told(bound)}; a network may learn one by the other"


def _told(names: Collection[str]) -> str:
    few = ", ".join([*names][:_NAMES_TOLD])
    return few if len(names) <= _NAMES_TOLD else f"{few}, …"
