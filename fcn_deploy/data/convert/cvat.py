"""CVAT's exports: "Segmentation mask", which has VOC's folders, and "CVAT for images".

Masks of the first are read by the colours of labelmap.txt; the second is one XML file.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.class_list import class_list_of
from fcn_deploy.data.convert.annotations import Annotations, Picture, Region, split_of
from fcn_deploy.data.convert.cvat_xml import read_cvat_xml
from fcn_deploy.data.voc import VocLayout


def read_cvat(source: Path) -> Annotations:
    """Read a folder that CVAT has exported with its images, or its ``annotations.xml``.

    Raises:
        DataError: it is none, or was exported without images.
    """
    for xml in (source, source / "annotations.xml"):
        if xml.suffix == ".xml" and xml.is_file():
            return read_cvat_xml(xml)
    file = source / "labelmap.txt"
    if not file.is_file():
        raise DataError(
            f"no {file} and no annotations.xml",
            'export from CVAT as "Segmentation mask" or "CVAT for images" with images, and unpack',
        )
    if not (source / "JPEGImages").is_dir():
        raise DataError(f"no {source / 'JPEGImages'}", 'export from CVAT again, with "Save images"')
    classes, layout = class_list_of(file), VocLayout(source)
    listed = {name: split for split in reversed(layout.lists()) for name in layout.names(split)}
    if not listed:
        raise DataError(f"no lists in {layout.list_place('x').parent}", "export from CVAT again")

    def pictures() -> Iterator[Picture]:
        for name, split in sorted(listed.items()):
            mask = layout.mask(name, split)

            def regions(size: tuple[int, int], mask: Path = mask) -> Iterator[tuple[str, Region]]:
                indices = classes.read_mask(mask)
                if indices.shape != size:
                    raise DataError(f"{mask} is of another size than its image", "export it again")
                for index in np.unique(indices).tolist():
                    label = classes.names[index] if index < len(classes.names) else "void"
                    yield label, indices == index

            known = split_of(layout.list_place(split), source)
            yield Picture(name, known, layout.image(name, split), None, regions)

    colours = dict(zip(classes.names, classes.palette, strict=True))
    return Annotations(classes.names, colours, len(listed), pictures)
