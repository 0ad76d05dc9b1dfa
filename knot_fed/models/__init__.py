"""Text classifiers: n-gram bags, transformers (from scratch or pretrained), and heads on frozen encoders."""

from knot_fed.models.batches import batches
from knot_fed.models.constant import ONE_LABEL
from knot_fed.models.device import check_device, device_of, memory_explained, placement, send, use_device
from knot_fed.models.huggingface.head import encoder_identity, mean_pooled_features
from knot_fed.models.huggingface.lora import check_lora_extra
from knot_fed.models.huggingface.portable import load_portable, pipeline_probabilities, write_portable
from knot_fed.models.huggingface.pretrained import hub_id
from knot_fed.models.huggingface.prompted import check_prompt
from knot_fed.models.huggingface.transformer import TINY_BERT_POSITIONS, train_vocabulary
from knot_fed.models.huggingface.trial import is_elsewhere, try_model
from knot_fed.models.inference import output_features, predict_logits, use_threads
from knot_fed.models.items import take
from knot_fed.models.plugins import is_plugin_model, plugin_identity
from knot_fed.models.specs import is_prompted, run_spec
from knot_fed.models.storage import (
    SPEC_FILE,
    build_classifier,
    check_model_name,
    constant_classifier,
    is_external_model,
    load_classifier,
    load_trained_state,
    merge_adapters,
    model_identity,
    read_spec,
    same_architecture,
    save_classifier,
    trained_state,
)
from knot_fed.models.text_classifier import Item, ModelSpec, Positions, TextClassifier, check_ready

__all__ = [
    "ONE_LABEL",
    "SPEC_FILE",
    "TINY_BERT_POSITIONS",
    "Item",
    "ModelSpec",
    "Positions",
    "TextClassifier",
    "batches",
    "build_classifier",
    "check_device",
    "check_lora_extra",
    "check_model_name",
    "check_prompt",
    "check_ready",
    "constant_classifier",
    "device_of",
    "encoder_identity",
    "hub_id",
    "is_elsewhere",
    "is_external_model",
    "is_plugin_model",
    "is_prompted",
    "load_classifier",
    "load_portable",
    "load_trained_state",
    "mean_pooled_features",
    "memory_explained",
    "merge_adapters",
    "model_identity",
    "output_features",
    "pipeline_probabilities",
    "placement",
    "plugin_identity",
    "predict_logits",
    "read_spec",
    "run_spec",
    "same_architecture",
    "save_classifier",
    "send",
    "take",
    "train_vocabulary",
    "trained_state",
    "try_model",
    "use_device",
    "use_threads",
    "write_portable",
]
