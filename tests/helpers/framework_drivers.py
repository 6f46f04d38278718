"""What a test does with a tiny model, in PyTorch and in TensorFlow: build, call, train, generate, read its weights."""

import copy

import numpy as np
import transformers

from tests.helpers.tiny_models import HEADS, PREFIX, USUAL_HEAD, config, is_real, of_head, random_state


class Torch:
    """What a test does with a model, in PyTorch."""

    name = "torch"

    @staticmethod
    def swap():
        from pipeline.pytorch import swap

        return swap

    @staticmethod
    def attention():
        from pipeline.pytorch import attention

        return attention

    @staticmethod
    def heads(family):
        return HEADS[family]

    @classmethod
    def build(cls, family, head=None, implementation="sdpa", dropout=0.0, **overrides):
        import torch

        model_class = getattr(transformers, PREFIX[family] + (head or USUAL_HEAD[family]))
        settings = config(family, dropout, **of_head(head), **overrides)
        # T5 has only eager attention.
        implementation = "eager" if family == "t5" else implementation
        model = model_class._from_config(settings, attn_implementation=implementation).eval()
        model.tie_weights()
        if overrides.get("tie_word_embeddings") is False and hasattr(model, "lm_head"):
            # Version 5 of transformers ties the output matrix of each T5.
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
        shapes |= {name: tuple(x.shape) for name, x in model.named_buffers() if name == "final_logits_bias"}
        state = random_state(shapes)
        model.load_state_dict({name: torch.tensor(value) for name, value in state.items()}, strict=False)
        return model

    @staticmethod
    def tensors(batch):
        import torch

        return {name: torch.tensor(value) for name, value in batch.items()}

    @classmethod
    def output(cls, model, batch, **kwargs):
        import torch

        with torch.no_grad():
            return cls._first(model(**cls.tensors(batch), **kwargs)).float().numpy()

    @staticmethod
    def _first(outputs):
        for name in ("logits", "start_logits", "last_hidden_state"):
            if name in outputs:
                return outputs[name]
        raise AssertionError(outputs.keys())

    @classmethod
    def loss(cls, model, batch):
        """Cross-entropy against fixed classes, at real tokens."""
        import torch

        logits = cls._first(model(**cls.tensors(batch)))
        real = torch.tensor(is_real(None, batch, logits))
        logits = logits[real].flatten(0, -2)
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1])

    @staticmethod
    def state(model):
        return {name: p.detach().float().numpy().copy() for name, p in model.named_parameters()}

    @classmethod
    def gradients(cls, model, batch, swap_module):
        """The gradients under stock names: written over a copy's weights, mapped by restoring."""
        import torch

        cls.loss(model, batch).backward()
        copied = copy.deepcopy(model)
        with torch.no_grad():
            for weight, original in zip(copied.parameters(), model.parameters(), strict=True):
                weight.copy_(torch.zeros_like(original) if original.grad is None else original.grad)
        swap_module.restore_attention(copied)
        return cls.state(copied)

    @classmethod
    def train(cls, model, batch, steps=20):
        import torch

        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            cls.loss(model, batch).backward()
            optimizer.step()

    @classmethod
    def generate(cls, model, batch, **kwargs):
        import torch

        torch.manual_seed(11)
        return model.generate(**cls.tensors(batch), **kwargs).numpy()

    @staticmethod
    def random_tensor(rng, *shape):
        import torch

        return torch.tensor(rng.normal(size=shape).astype(np.float32))

    @staticmethod
    def tensor(value):
        import torch

        return torch.tensor(value)

    @staticmethod
    def numpy(tensor):
        return tensor.detach().numpy()

    @staticmethod
    def set_weights(attention, weights):
        """Fill the four projections; `weights` has matrices [in, out]."""
        import torch

        with torch.no_grad():
            for name, (matrix, offset) in weights.items():
                getattr(attention, name).weight.copy_(torch.tensor(matrix.T))
                if offset is not None:
                    getattr(attention, name).bias.copy_(torch.tensor(offset))

    @staticmethod
    def call_training(attention, *args, **kwargs):
        import torch

        torch.manual_seed(3)
        return attention.train()(*args, **kwargs)

    @staticmethod
    def call_evaluating(attention, *args, **kwargs):
        return attention.eval()(*args, **kwargs)


class TensorFlow:
    """What a test does with a model, in TensorFlow."""

    name = "tensorflow"

    @staticmethod
    def swap():
        from pipeline.tensorflow import swap

        return swap

    @staticmethod
    def attention():
        from pipeline.tensorflow import attention

        return attention

    @staticmethod
    def heads(family):
        return [head for head in HEADS[family] if hasattr(transformers, f"TF{PREFIX[family]}{head}")]

    @classmethod
    def build(cls, family, head=None, implementation=None, dropout=0.0, **overrides):
        from transformers.modeling_tf_pytorch_utils import load_pytorch_state_dict_in_tf2_model

        twin = Torch.build(family, head, **overrides)
        state = Torch.state(twin)
        state |= {name: x.numpy() for name, x in twin.named_buffers() if name == "final_logits_bias"}
        model = getattr(transformers, f"TF{PREFIX[family]}{head or USUAL_HEAD[family]}")(
            config(family, dropout, **of_head(head), **overrides)
        )
        model.build_in_name_scope()
        _, report = load_pytorch_state_dict_in_tf2_model(
            model, state, allow_missing_keys=True, output_loading_info=True, skip_logger_warnings=True
        )
        assert not report["missing_keys"], report
        return model

    @staticmethod
    def tensors(batch):
        import tensorflow as tf

        return {name: tf.constant(value, tf.int32) for name, value in batch.items()}

    @classmethod
    def output(cls, model, batch, **kwargs):
        import tensorflow as tf

        return tf.cast(Torch._first(model(**cls.tensors(batch), **kwargs)), tf.float32).numpy()

    @classmethod
    def loss(cls, model, batch):
        """Cross-entropy against fixed classes, at real tokens."""
        import tensorflow as tf

        logits = Torch._first(model(**cls.tensors(batch), training=True))
        logits = tf.boolean_mask(logits, is_real(None, batch, logits))
        logits = tf.reshape(logits, [-1, logits.shape[-1]])
        classes = tf.range(tf.shape(logits)[0]) % tf.shape(logits)[1]
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits))

    @staticmethod
    def state(model):
        # Without the model's own name, which counts the models made so far.
        return {variable.name.split("/", 1)[1]: variable.numpy().copy() for variable in model.trainable_variables}

    @classmethod
    def gradients(cls, model, batch, swap_module):
        """The gradients under stock names: written over the weights, which `restore_attention` maps back."""
        import tensorflow as tf

        variables = model.trainable_variables
        with tf.GradientTape() as tape:
            loss = cls.loss(model, batch)
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        before = [variable.numpy() for variable in variables]
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign(tf.convert_to_tensor(gradient))
        was_swapped = swap_module.restore_attention(model)
        mapped = cls.state(model)
        if was_swapped:
            swap_module.swap_attention(model)
        for variable, value in zip(model.trainable_variables, before, strict=True):
            variable.assign(value)
        return mapped

    @classmethod
    def train(cls, model, batch, steps=20):
        import tensorflow as tf
        import tf_keras

        optimizer = tf_keras.optimizers.AdamW(1e-3, weight_decay=0.01)

        def step():
            with tf.GradientTape() as tape:
                loss = cls.loss(model, batch)
            variables = model.trainable_variables
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients((g, v) for g, v in zip(gradients, variables, strict=True) if g is not None)

        for _ in range(steps):
            step()

    @classmethod
    def generate(cls, model, batch, **kwargs):
        if kwargs.get("do_sample"):
            kwargs["seed"] = [11, 13]
        return model.generate(**cls.tensors(batch), **kwargs).numpy()

    @staticmethod
    def random_tensor(rng, *shape):
        import tensorflow as tf

        return tf.constant(rng.normal(size=shape).astype(np.float32))

    @staticmethod
    def tensor(value):
        import tensorflow as tf

        return tf.constant(value)

    @staticmethod
    def numpy(tensor):
        return tensor.numpy()

    @staticmethod
    def set_weights(attention, weights):
        """Fill the four projections; `weights` has matrices [in, out]."""
        for name, (matrix, offset) in weights.items():
            projection = getattr(attention, name)
            projection.build([None, None, matrix.shape[0]])
            projection.set_weights([matrix] if offset is None else [matrix, offset])

    @staticmethod
    def call_training(attention, *args, **kwargs):
        return attention(*args, **kwargs, training=True)

    @staticmethod
    def call_evaluating(attention, *args, **kwargs):
        return attention(*args, **kwargs, training=False)


FRAMEWORKS = (Torch, TensorFlow)
