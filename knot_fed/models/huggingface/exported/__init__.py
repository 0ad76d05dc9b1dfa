"""Model code that `knot-fed export` copies into its folders; each file needs only torch and transformers."""

HEAD, NGRAMS = "knot_fed_head", "knot_fed_ngrams"
EXPORTED_TYPES = (HEAD, NGRAMS)
"""Values of `model_type` of the models whose code is here."""


def register() -> None:
    """Make the Auto classes of transformers load these models without code from their folders."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from knot_fed.models.huggingface.exported.modeling_knot_fed_head import (
        KnotFedHeadConfig,
        KnotFedHeadForSequenceClassification,
    )
    from knot_fed.models.huggingface.exported.modeling_knot_fed_ngrams import (
        KnotFedNgramsConfig,
        KnotFedNgramsForSequenceClassification,
    )
    from knot_fed.models.huggingface.exported.tokenization_knot_fed_ngrams import KnotFedNgramsTokenizer

    for config, model in (
        (KnotFedHeadConfig, KnotFedHeadForSequenceClassification),
        (KnotFedNgramsConfig, KnotFedNgramsForSequenceClassification),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForSequenceClassification.register(config, model, exist_ok=True)
    AutoTokenizer.register(KnotFedNgramsConfig, slow_tokenizer_class=KnotFedNgramsTokenizer, exist_ok=True)
