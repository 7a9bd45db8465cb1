"""Text in: files and datasets as a stream of documents, and the demo's generated corpus."""

from .blocks import is_plain_text, iter_file_blocks, iter_text_blocks
from .files import HUB_PREFIX, corpus_fingerprint, expand_globs, files_of_shard, is_hub, open_stream
from .generated import DemoData, write_demo_data
from .readers import Document, EncodingErrors, iter_documents

__all__ = [
    "HUB_PREFIX",
    "DemoData",
    "Document",
    "EncodingErrors",
    "corpus_fingerprint",
    "expand_globs",
    "files_of_shard",
    "is_hub",
    "is_plain_text",
    "iter_documents",
    "iter_file_blocks",
    "iter_text_blocks",
    "open_stream",
    "write_demo_data",
]
