"""Text in: files and datasets as a stream of documents, and the demo's generated corpus."""

from .files import corpus_fingerprint, expand_globs, is_hub, open_stream
from .generated import DemoData, write_demo_data
from .readers import Document, EncodingErrors, iter_documents

__all__ = [
    "DemoData",
    "Document",
    "EncodingErrors",
    "corpus_fingerprint",
    "expand_globs",
    "is_hub",
    "iter_documents",
    "open_stream",
    "write_demo_data",
]
