"""A mask of a few VOC classes and void, and the palette that it is shown in."""

import numpy as np

from fcn_deploy.data.masks import voc_palette

VOC = voc_palette(21)
MASK = np.array([[0, 1, 15, 255], [20, 2, 0, 255]], np.uint8)
