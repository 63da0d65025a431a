from hafm_hf import HAFMConfig, HAFMForVocalAccompaniment  # noqa: F401
