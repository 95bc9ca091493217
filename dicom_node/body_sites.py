"""Where on the body a photograph was taken: one table of codes (PS3.16 CID 4029), names and the groups models know.

A site has a standard code where there is one: CID 4029 Dermatology Anatomic Site, which may be extended; *trunk* and
*head and neck* are SNOMED CT concepts outside it (86381001; 774007, which is in CID 4031), and two groups of data sets
have no code at all: they are written under our own scheme, never under the code of one of their halves.  The groups
are those of the SIIM-ISIC data sets (``anatom_site_general_challenge``).
"""

from __future__ import annotations

from dataclasses import dataclass

from ai_engine.findings import Code

PRIVATE_SCHEME = "99AINODE"

GROUPS = ("torso", "head/neck", "upper extremity", "lower extremity", "palms/soles", "oral/genital")
"""The names by which SIIM-ISIC tells body sites apart."""


@dataclass(frozen=True)
class BodySite:
    """One region of skin or mucosa.

    Attributes
    ----------
    name
        By which it is asked for: lower case, words joined by hyphens.
    code
        For Anatomic Region Sequence (0008,2218).
    group
        One of `GROUPS`.
    is_paired
        Whether there is a left and a right one.
    """

    name: str
    code: Code
    group: str
    is_paired: bool = False


def _site(name: str, value: str, meaning: str, group: str, *, paired: bool = False, scheme: str = "SCT") -> BodySite:
    return BodySite(name, Code(value, scheme, meaning), group, paired)


SITES: tuple[BodySite, ...] = (
    _site("torso", "86381001", "Skin of trunk", "torso"),
    _site("anterior-torso", "181491009", "Skin of anterior trunk", "torso"),
    _site("posterior-torso", "66643007", "Skin of back", "torso"),
    _site("chest", "74160004", "Skin of chest", "torso"),
    _site("abdomen", "75093004", "Skin of abdomen", "torso"),
    _site("back", "66643007", "Skin of back", "torso"),
    _site("upper-back", "699893008", "Skin of back of upper thoracic region", "torso"),
    _site("mid-back", "130323", "Skin of mid back", "torso", scheme="DCM"),
    _site("lower-back", "113182001", "Skin of lower back", "torso"),
    _site("buttock", "22180002", "Skin of buttock", "torso", paired=True),
    _site("axilla", "76261009", "Skin of axilla", "torso", paired=True),
    _site("groin", "39687006", "Skin of inguinal region", "torso", paired=True),
    _site("head-neck", "774007", "Head and Neck", "head/neck"),
    _site("head", "70762009", "Skin of head", "head/neck"),
    _site("scalp", "43067004", "Skin of scalp", "head/neck"),
    _site("face", "73897004", "Skin of face", "head/neck"),
    _site("forehead", "68698007", "Skin of forehead", "head/neck"),
    _site("temple", "16621002", "Skin of temporal region", "head/neck", paired=True),
    _site("cheek", "36141000", "Skin of cheek", "head/neck", paired=True),
    _site("nose", "113179006", "Skin of nose", "head/neck"),
    _site("ear", "1902009", "Skin of ear", "head/neck", paired=True),
    _site("eyelid-upper", "41310005", "Skin of upper eyelid", "head/neck", paired=True),
    _site("eyelid-lower", "40069000", "Skin of lower eyelid", "head/neck", paired=True),
    _site("lip", "88089004", "Skin of lip", "head/neck"),
    _site("chin", "23747009", "Skin of chin", "head/neck"),
    _site("neck", "43081002", "Skin of neck", "head/neck"),
    _site("upper-extremity", "371311000", "Skin of upper extremity", "upper extremity", paired=True),
    _site("forearm-anterior", "70559009", "Skin of anterior surface of forearm", "upper extremity", paired=True),
    _site("forearm-posterior", "41550009", "Skin of posterior surface of forearm", "upper extremity", paired=True),
    _site("hand", "33712006", "Skin of hand", "upper extremity", paired=True),
    _site("lower-extremity", "371304004", "Skin of lower extremity", "lower extremity", paired=True),
    _site("thigh-anterior", "61248009", "Skin of anterior surface of thigh", "lower extremity", paired=True),
    _site("thigh-posterior", "4578000", "Skin of posterior surface of thigh", "lower extremity", paired=True),
    _site("lower-leg-anterior", "25763004", "Skin of anterior surface of lower leg", "lower extremity", paired=True),
    _site("lower-leg-posterior", "47224004", "Skin of posterior surface of lower leg", "lower extremity", paired=True),
    _site("foot", "60496002", "Skin of foot", "lower extremity", paired=True),
    _site("toe", "52034004", "Skin of toe", "lower extremity", paired=True),
    _site("palms-soles", "palms-soles", "Skin of palm or sole", "palms/soles", paired=True, scheme=PRIVATE_SCHEME),
    _site("palm", "70887009", "Skin of palm of hand", "palms/soles", paired=True),
    _site("sole-forefoot", "130317", "Skin of sole of forefoot", "palms/soles", paired=True, scheme="DCM"),
    _site("heel", "84607009", "Skin of heel", "palms/soles", paired=True),
    _site("oral-genital", "oral-genital", "Oral or genital region", "oral/genital", scheme=PRIVATE_SCHEME),
    _site("oral", "113277000", "Oral mucosa", "oral/genital"),
    _site("genital", "60944009", "Skin of external genitalia", "oral/genital"),
    _site("anal", "59112000", "Skin of anus", "oral/genital"),
    _site("skin", "39937001", "Skin", ""),
)
"""In the order in which they are listed; *skin* is the region of who knows no more."""

_BY_NAME = {site.name: site for site in SITES}
_GROUP_OF_CODE = {(site.code.value, site.code.scheme): site.group for site in SITES}
_OTHER_NAMES = {"lateral-torso": "torso"}
"""Names of data sets for which there is no code of their own."""


def body_site(name: str) -> BodySite | None:
    """The site of this name; case, blanks, underscores and slashes do not count.  None for a name not in the table."""
    plain = "-".join(name.replace("/", " ").replace("_", " ").replace("-", " ").lower().split())
    return _BY_NAME.get(_OTHER_NAMES.get(plain, plain))


def group_of(code: Code | None) -> str:
    """The group that a coded region belongs to; empty where the table does not say."""
    return "" if code is None else _GROUP_OF_CODE.get((code.value, code.scheme), "")
