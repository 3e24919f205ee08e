"""What happens when vLLM loads a model: what is not covered is refused, before and after."""

from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from bi_experiments.vllm_cpu.coverage import refuse_uncovered_features, refuse_uncovered_layers


def install() -> None:
    """Have vLLM's model loaders refuse what is not covered."""
    native_load_model = BaseModelLoader.load_model
    if native_load_model.__module__ == __name__:
        return

    def load_model(
        loader: BaseModelLoader, vllm_config: VllmConfig, model_config: ModelConfig, *args: object, **kwargs: object
    ) -> nn.Module:
        # The model runner must not be imported before vLLM has prepared it for the CPU, as the worker does.
        from bi_experiments.vllm_cpu import sampling

        sampling.install()
        refuse_uncovered_features(vllm_config, model_config)
        model = native_load_model(loader, vllm_config, model_config, *args, **kwargs)
        refuse_uncovered_layers(model)
        return model

    BaseModelLoader.load_model = load_model
