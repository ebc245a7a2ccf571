"""What methods that segment from a sentence share: their batch, text encoders, dynamic filters and the logistic loss.

Gavrilyuk et al. 2018, "Actor and Action Video Segmentation from a Sentence": section 3.1 (one 1D convolution over word
vectors; LSTM and bidirectional LSTM in section 5.1), 3.2 (spatial coordinates), 3.3 (equation 2), 3.4 (equations 4, 5).
The baselines of table 1, Hu et al. 2016 and Li et al. 2017, share the LSTM, the coordinates, the filters and the loss.

Axes: B batch, T frames, H, W input; h, w a feature map; L words of the longest sentence; C channels.
"""

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from models import IGNORE

WORD_CHANNELS = 300
"""Length of a word vector (section 3.1: word2vec; given and fixed, no network here changes it)."""
COORDINATES = 8
"""Channels that ``with_coordinates`` appends."""


class TextBatch(TypedDict, total=False):
    """Windows, and the sentence that each is asked about as vectors of its words."""

    frames: Tensor  # (B, T, H, W, 3) uint8 RGB
    flow: Tensor  # (B, T, H, W, 2) float32, encoded as the Config asks (clipped: truncated to 20 pixels, over 20)
    words: Tensor  # (B, L, 300) float32, zeros behind the last word
    lengths: Tensor  # (B,) int64, 0 for a sentence without a known word
    mask: Tensor  # (B, T, H, W) uint8: 1 the actor that is meant, 0 else, IGNORE where nobody labelled; training only


@dataclass(frozen=True)
class Config:
    """Kind and size of a text encoder. Raises ``ValueError`` for an unknown kind."""

    kind: str = "conv"  # conv (section 3.1), lstm or bilstm (section 5.1)
    channels: int = WORD_CHANNELS  # of the convolution, or of the hidden state of an LSTM (of each of its directions)

    def __post_init__(self) -> None:
        if self.kind not in {"conv", "lstm", "bilstm"}:
            raise ValueError(f"text encoder: kind `{self.kind}` is none of `conv`, `lstm`, `bilstm`")

    @property
    def outputs(self) -> int:
        """Channels of the text features: a bidirectional LSTM gives the final hidden states of both directions."""
        return self.channels * (2 if self.kind == "bilstm" else 1)


CONV = Config()
"""Section 3.1: as many outputs as a word vector has."""
LSTM = Config(kind="lstm", channels=1000)
"""Section 5.1, and that of Hu et al. 2016 and Li et al. 2017."""
BILSTM = Config(kind="bilstm", channels=1000)
"""Section 5.1; 1,000 a direction (the paper gives one number for both kinds)."""


class TextEncoder(nn.Module):
    """A sentence's word vectors to one vector T (section 3.1; the LSTMs of section 5.1).

    - conv: a 1D convolution of size 2, ReLU, maximum over the sentence. A row of zeros follows the last word, so one
      word is a sentence too; windows of padding alone never win.
    - lstm, bilstm: the final hidden state behind the last word.

    Padding changes nothing. A sentence of length 0 (empty, or unknown words only) has text features of zeros.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layer: nn.Conv1d | nn.LSTM
        if config.kind == "conv":
            self.layer = nn.Conv1d(WORD_CHANNELS, config.channels, 2)
        else:
            self.layer = nn.LSTM(
                WORD_CHANNELS, config.channels, batch_first=True, bidirectional=config.kind == "bilstm"
            )

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, 300) word vectors, zeros behind the last, and (B,) lengths, to (B, ``config.outputs``)."""
        if isinstance(self.layer, nn.LSTM):
            words = F.pad(words, (0, 0, 0, 1))  # (B, L + 1, 300): a step even where no sentence has a word
            packed = pack_padded_sequence(words, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
            hidden = self.layer(packed)[1][0].transpose(0, 1).flatten(1)  # (directions, B, C) to (B, directions * C)
            return hidden * (lengths > 0)[:, None]
        words = F.pad(words, (0, 0, 0, 2))  # (B, L + 2, 300): a window even where no sentence has a word
        windows = self.layer(words.transpose(1, 2)).relu()  # (B, C, L + 1), each of a word and the next
        padding = torch.arange(windows.shape[2], device=words.device) >= lengths[:, None]  # (B, L + 1)
        return windows.masked_fill(padding[:, None], 0).amax(2)  # 0 is the least that ReLU leaves


def with_coordinates(features: Tensor) -> Tensor:
    """Spatial coordinates beside features: (B, C, h, w) to (B, C + ``COORDINATES``, h, w).

    Section 3.2 says only "the spatial coordinates of each position as extra channels", following Hu et al. 2016; these
    are the eight of Hu's code: left, top, right and bottom edge of the cell and its centre (x, y), all from -1 to 1
    across the map, and 1/w, 1/h.
    """
    batch, _, height, width = features.shape
    x, y = (2 * torch.arange(n + 1, device=features.device).to(features.dtype) / n - 1 for n in (width, height))
    y = y[:, None]  # (h + 1, 1), and x (w + 1,): the edges of the cells
    constants = torch.ones_like(x[:1])
    channels = (
        *(x[:-1], y[:-1], x[1:], y[1:]),
        *((x[:-1] + x[1:]) / 2, (y[:-1] + y[1:]) / 2),
        *(constants / width, constants / height),
    )
    coordinates = torch.stack([channel.expand(height, width) for channel in channels])  # (8, h, w)
    return torch.cat([features, coordinates.expand(batch, -1, -1, -1)], dim=1)


def dynamic_convolution(features: Tensor, filters: Tensor) -> Tensor:
    """Equation 2: features (B, C, h, w) under each sample's own 1 x 1 filter (B, C), to responses (B, 1, h, w)."""
    return torch.einsum("bchw,bc->bhw", features, filters)[:, None]


def logistic_loss(response: Tensor, mask: Tensor, *, background: float) -> Tensor:
    """Equations 4 and 5: the mean of log(1 + exp(-S Y)) over the labelled pixels of a batch.

    ``response`` S (B, 1, h, w). ``mask`` (B, H, W) of 1, 0 and ``IGNORE``; what it has at the centre of each of the
    h x w cells counts, Y being 1 or -1 there. ``background`` is the weight of Y = -1 in the mean (the papers: 1).
    A batch without a labelled pixel has loss 0.
    """
    truth = F.interpolate(mask[:, None], size=response.shape[2:], mode="nearest-exact")  # (B, 1, h, w)
    sign = 2 * (truth == 1).to(response.dtype) - 1
    weights = torch.where(truth == 1, 1.0, background).to(response.dtype) * (truth != IGNORE)
    total = (weights * F.softplus(-response * sign)).sum()
    return total / weights.sum().clamp(min=torch.finfo(response.dtype).tiny)
