"""Pictures of predictions and of class relations, as uint8 RGB arrays [H, W, 3].

The arrays go as they are into VisualDL (``add_image``) or through ``save_png`` into a file. Of
the other modules, ``drawing`` holds what they share and ``curves`` draws plots of a training.
"""

from paddle_csrl.visualize.colors import colors_by_name, palette
from paddle_csrl.visualize.drawing import Picture, name_or_id, save_png, write_png
from paddle_csrl.visualize.panels import (
    MAX_CLASSES,
    Scene,
    comparison_panel,
    labelled_mask,
    overlay,
    prediction_panel,
)
from paddle_csrl.visualize.relations import relation_figure, relation_panel
