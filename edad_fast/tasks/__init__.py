"""What a student is judged on: `ner`, `masked_lm` and `speed`.

The modules take loaded models and tokenizers, so they work with any model whose forward is that of Hugging
Face. Import them by name; nothing heavy is imported here.
"""
