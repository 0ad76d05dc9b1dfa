"""`import knot_fed.hub` makes transformers load exported students without `trust_remote_code`.

Examples
--------
>>> from transformers import AutoConfig
>>> AutoConfig.for_model("knot_fed_head", num_labels=3).max_length
128
"""

from knot_fed.models.huggingface.exported import register

register()
