EXTRA_DIST += \
	tests/golden/README.md \
	tests/golden/gpt2-small/config.json \
	tests/golden/gpt2-small/golden.safetensors \
	tests/golden/gpt2-small/input.json \
	tests/golden/gpt2-small/model.safetensors \
	tests/golden/gpt2-untied/config.json \
	tests/golden/gpt2-untied/golden.safetensors \
	tests/golden/gpt2-untied/input.json \
	tests/golden/gpt2-untied/model.safetensors \
	tests/reference/check_hf.py \
	tests/reference/gpt2_reference.py
