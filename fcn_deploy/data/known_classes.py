"""The classes of published data sets, taken where a folder in their layout names none."""

from pathlib import Path

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.class_json import Colour
from fcn_deploy.data.class_list import ClassList
from fcn_deploy.data.mask_values import ValueMap
from fcn_deploy.data.masks import voc_palette

#: Name, colour and the value in `_labelIds` of Cityscapes' 19 classes, in the order of their
#: train ids (Cordts et al. 2016; labels.py of cityscapesScripts).
_CITYSCAPES = (
    ("road", (128, 64, 128), 7), ("sidewalk", (244, 35, 232), 8), ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12), ("fence", (190, 153, 153), 13), ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19), ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21), ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23), ("person", (220, 20, 60), 24), ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27), ("bus", (0, 60, 100), 28), ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32), ("bicycle", (119, 11, 32), 33),
)  # fmt: skip
#: CamVid's 31 classes and the colours of its masks (Brostow et al. 2009); black is void.
_CAMVID = (
    ("Animal", (64, 128, 64)), ("Archway", (192, 0, 128)), ("Bicyclist", (0, 128, 192)),
    ("Bridge", (0, 128, 64)), ("Building", (128, 0, 0)), ("Car", (64, 0, 128)),
    ("CartLuggagePram", (64, 0, 192)), ("Child", (192, 128, 64)), ("Column_Pole", (192, 192, 128)),
    ("Fence", (64, 64, 128)), ("LaneMkgsDriv", (128, 0, 192)), ("LaneMkgsNonDriv", (192, 0, 64)),
    ("Misc_Text", (128, 128, 64)), ("MotorcycleScooter", (192, 0, 192)),
    ("OtherMoving", (128, 64, 64)), ("ParkingBlock", (64, 192, 128)), ("Pedestrian", (64, 64, 0)),
    ("Road", (128, 64, 128)), ("RoadShoulder", (128, 128, 192)), ("Sidewalk", (0, 0, 192)),
    ("SignSymbol", (192, 128, 128)), ("Sky", (128, 128, 128)), ("SUVPickupTruck", (64, 128, 192)),
    ("TrafficCone", (0, 0, 64)), ("TrafficLight", (0, 64, 64)), ("Train", (192, 64, 128)),
    ("Tree", (128, 128, 0)), ("Truck_Bus", (192, 128, 192)), ("Tunnel", (64, 0, 64)),
    ("VegetationMisc", (192, 192, 0)), ("Wall", (64, 192, 0)),
)  # fmt: skip
#: The 11 classes of the SegNet tutorial's CamVid; 11 is void there.
_SEGNET = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
    "Pedestrian", "Bicyclist",
)  # fmt: skip
#: ADE20K's own list of its 150 classes.
ADE_LIST = "objectInfo150.txt"


def cityscapes_classes(train_ids: bool) -> ClassList:
    """Return Cityscapes' 19 classes, for masks of train ids or of label ids."""
    names = tuple(name for name, _, _ in _CITYSCAPES)
    palette: tuple[Colour, ...] = tuple(colour for _, colour, _ in _CITYSCAPES)
    if train_ids:
        return ClassList(names, palette, None)
    pairs = tuple((value, index) for index, (_, _, value) in enumerate(_CITYSCAPES))
    return ClassList(names, palette, None, ValueMap(pairs, others_void=True))


def camvid_classes() -> ClassList:
    """Return CamVid's 31 classes, for masks that hold colours."""
    names, palette = zip(*_CAMVID, strict=True)
    return ClassList(names, palette, None, None, ((0, 0, 0),))


def segnet_classes() -> ClassList:
    """Return the 11 classes of the SegNet tutorial's CamVid."""
    count = len(_SEGNET)
    pairs = (*((index, index) for index in range(count)), (count, IGNORE_INDEX))
    return ClassList(_SEGNET, voc_palette(count), None, ValueMap(pairs))


def ade_classes(root: Path) -> ClassList:
    """Return ADE20K's 150 classes by its own list; 0 is void, n is class n - 1.

    Raises:
        DataError: the list is not there, or is not ADE20K's.
    """
    file = root / ADE_LIST
    try:
        rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"no {file}, which names ADE20K's classes",
            f"copy it there from ADE20K's archive, or write classes.json: "
            f"`fcn-deploy data check {root} --write-classes`",
        ) from error
    names = tuple(row[-1].split(",")[0].strip() for row in rows if row[0].strip().isdecimal())
    numbered = tuple(
        f"{name} ({i + 1})" if name in names[:i] else name for i, name in enumerate(names)
    )
    if not 2 <= len(names) < IGNORE_INDEX:
        raise DataError(f"{file} names {len(names)} classes", "copy it anew from ADE20K's archive")
    pairs = ((0, IGNORE_INDEX), *((index + 1, index) for index in range(len(names))))
    return ClassList(numbered, voc_palette(len(names)), None, ValueMap(pairs))
