"""This model's code is in the package hf-mmalign: `pip install hf-mmalign`.

With `import hf_mmalign` before loading, transformers finds it there. Without, transformers runs this file, which lies in
the folder of every saved model and knows no more than the package's name, and wants `trust_remote_code=True` for it.
"""

try:
    import hf_mmalign
except ModuleNotFoundError as error:
    if error.name != "hf_mmalign":
        raise
    raise ImportError(
        "This model needs the package hf-mmalign, which is not installed. Run `pip install hf-mmalign`."
    ) from None


def __getattr__(name: str):
    return getattr(hf_mmalign, name)
