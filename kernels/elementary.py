"""Coefficients of exp, log, tanh and the normal distribution (rule 6), lowest power first: Horner in float64."""

LOG2E = float.fromhex("0x1.71547652b82fep+0")
LN2_HIGH = float.fromhex("0x1.62e42fef00000p-1")
LN2_LOW = float.fromhex("0x1.473de6af278edp-34")
EXP = tuple(
    float.fromhex(c)
    for c in (
        "0x1.000000000000ap-1",
        "0x1.55555555554fap-3",
        "0x1.555555555087dp-5",
        "0x1.1111111127bc1p-7",
        "0x1.6c16c1842a00ap-10",
        "0x1.a01a012a64523p-13",
        "0x1.a0199a0c94617p-16",
        "0x1.71df2535a4da6p-19",
        "0x1.28ad72a6a53bbp-22",
        "0x1.ad7f9ca208a8ep-26",
    )
)
LOG = tuple(
    float.fromhex(c)
    for c in (
        "0x1.5555555555593p-2",
        "0x1.999999997fb33p-3",
        "0x1.249249421789fp-3",
        "0x1.c71c51e80b987p-4",
        "0x1.7466462835d23p-4",
        "0x1.39a0f576523a8p-4",
        "0x1.2f0d89e6e495fp-4",
    )
)
TANH = tuple(
    float.fromhex(c)
    for c in (
        "-0x1.5555555555555p-2",
        "0x1.1111111110e04p-3",
        "-0x1.ba1ba1b994262p-5",
        "0x1.664f4827c7387p-6",
        "-0x1.226e138728f92p-7",
        "0x1.d6c51cb5ec085p-9",
        "-0x1.7bc6eb005c921p-10",
        "0x1.148ea0b308461p-11",
    )
)
# exp(a**2 / 2) times the normal distribution's cdf at -a is P(a) / Q(a), 0 <= a <= 16.
NORMAL_P = tuple(
    float.fromhex(c)
    for c in (
        "0x1.0000000000001p-1",
        "0x1.61bc5dcad9e2ap-1",
        "0x1.e49f5a0991d7ep-2",
        "0x1.a10760ffabb3fp-3",
        "0x1.e74eeb4354547p-5",
        "0x1.8a2b7c3d0e054p-7",
        "0x1.af6744aa30891p-10",
        "0x1.25b7ec211672ep-13",
        "0x1.81d2790926b50p-18",
    )
)
NORMAL_Q = tuple(
    float.fromhex(c)
    for c in (
        "0x1.0000000000000p+0",
        "0x1.16ff43b4bdd0fp+1",
        "0x1.17c35ba1a3314p+1",
        "0x1.53c89826eed94p+0",
        "0x1.1469d6b5d60a3p-1",
        "0x1.39c39faba3a40p-3",
        "0x1.f3c5479d5fc80p-6",
        "0x1.0f495308f628dp-8",
        "0x1.701f199349491p-12",
        "0x1.e38e6e03c3997p-17",
    )
)
DENSITY = float.fromhex("0x1.9884533d43651p-2")  # 1 / sqrt(2 pi)
