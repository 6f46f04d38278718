"""Multi-head attention in NumPy, one query and one head at a time: slow, obvious, and written from the paper.

Vaswani et al. 2017, eq. 1 and section 3.2.2. Knows nothing of the code under test.
"""

import math

import numpy as np


def softmax(scores):
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def multi_head_attention(queries, source, weights, num_heads, bias=None, scale=None):
    """`queries` [B, T, D] attend to `source` [B, S, D]; returns output [B, T, D], weights [B, H, T, S].

    `weights` holds for each of query, key, value and out a matrix [in, out] and a vector [out] or None;
    `bias` [B, H, T, S] is added to the scores; `scale` None means 1 / sqrt(head width).
    """
    queries, source = np.asarray(queries, np.float64), np.asarray(source, np.float64)

    def project(vector, name):
        matrix, offset = weights[name]
        return vector @ matrix.astype(np.float64) + (0.0 if offset is None else offset)

    inner = weights["query"][0].shape[1]
    head_width = inner // num_heads
    scale = 1 / math.sqrt(head_width) if scale is None else scale
    batch, num_queries, _ = queries.shape
    num_keys = source.shape[1]
    attention = np.zeros((batch, num_heads, num_queries, num_keys))
    output = np.zeros((batch, num_queries, weights["out"][0].shape[1]))
    for b in range(batch):
        keys = [project(token, "key") for token in source[b]]
        values = [project(token, "value") for token in source[b]]
        for t in range(num_queries):
            query = project(queries[b, t], "query")
            heads = []
            for h in range(num_heads):
                own = slice(h * head_width, (h + 1) * head_width)
                scores = [
                    scale * float(query[own] @ key[own]) + (0.0 if bias is None else float(bias[b, h, t, s]))
                    for s, key in enumerate(keys)
                ]
                attention[b, h, t] = softmax(scores)
                heads.append(sum(w * value[own] for w, value in zip(attention[b, h, t], values, strict=True)))
            output[b, t] = project(np.concatenate(heads), "out")
    return output, attention
