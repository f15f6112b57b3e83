"""The run config: `schema` says which keys there are, `load` reads and writes YAML, `build` checks sections."""

from minordpo.config.load import (
    build_lora_config,
    build_training_arguments,
    dump_config,
    load_config,
    read_mapping,
)
from minordpo.config.schema import (
    DataConfig,
    MetricsConfig,
    ModelConfig,
    MonitorConfig,
    ObjectiveConfig,
    RunConfig,
    SamplesConfig,
    TrainingConfig,
    describe_keys,
)

__all__ = [
    "DataConfig",
    "MetricsConfig",
    "ModelConfig",
    "MonitorConfig",
    "ObjectiveConfig",
    "RunConfig",
    "SamplesConfig",
    "TrainingConfig",
    "build_lora_config",
    "build_training_arguments",
    "describe_keys",
    "dump_config",
    "load_config",
    "read_mapping",
]
