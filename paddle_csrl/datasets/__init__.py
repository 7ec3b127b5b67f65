"""Data sets, their class names and transforms; importing one registers it with PaddleSeg."""

from paddle_csrl.datasets.class_names import CLASS_NAMES
from paddle_csrl.datasets.label_scan import LabelScan, scan_labels
from paddle_csrl.datasets.shapes import AttributeShapes
from paddle_csrl.datasets.transforms import RandomGaussianBlur, ResizeShortSide
from paddle_csrl.datasets.zero_shot import ZeroShotDataset
