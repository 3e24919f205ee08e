"""What is used of Hydra and OmegaConf that neither promises to keep: the only imports of their private modules.

Written for hydra-core 1.3 and omegaconf 2.3, to which pyproject.toml keeps them.
"""

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from omegaconf._utils import OmegaConfDumper

__all__ = [
    "BasicSweeper",
    "Callbacks",
    "ConfigLoaderImpl",
    "OmegaConfDumper",
    "get_args_parser",
    "get_overrides_dirname",
]
