"""The model does what every model of vinr must."""

from vinr.testing import check_model


def test_siren_is_a_model_of_vinr() -> None:
    check_model("siren")
