"""Class embeddings: word vectors by class name, or attributes."""

from paddle_csrl.embeddings.attributes import attribute_vectors, embed_classes, takes_attributes
from paddle_csrl.embeddings.readers import read_vectors
from paddle_csrl.embeddings.resolve import (
    load_class_embeddings,
    resolve_class_embeddings,
    under_other_names,
    words_of,
)
