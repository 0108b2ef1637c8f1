import subprocess
import sys

import hf_mmalign


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_is_light():
    assert run("import hf_mmalign, sys; print('torch' in sys.modules, 'transformers' in sys.modules)") == "False False"


def test_every_public_name_is_there():
    for name in hf_mmalign.__all__:
        assert getattr(hf_mmalign, name) is not None
    assert set(hf_mmalign.__all__) <= set(dir(hf_mmalign))


def test_auto_classes_know_our_models_whatever_is_imported_first():
    check = "print(AutoConfig.for_model('vilt_wma').model_type)"
    assert run(f"import hf_mmalign; from transformers import AutoConfig; {check}") == "vilt_wma"
    assert run(f"from transformers import AutoConfig; import hf_mmalign; {check}") == "vilt_wma"
    first_vilt = "import hf_mmalign; from transformers import ViltModel, AutoConfig"
    assert run(f"{first_vilt}; {check}") == "vilt_wma"
