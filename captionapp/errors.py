"""Named errors of the domain. The web and the command line translate them."""


class CaptionAppError(Exception):
    """Base of every error that a person can be told about: ``str(error)`` is a sentence."""

    @property
    def message(self) -> str:
        """The same, as it was given: a ``Sentence`` can still be said in another language."""
        return self.args[0] if self.args else ""


class InvalidSetting(CaptionAppError):
    """A setting has a value that cannot be used."""


class InvalidImage(CaptionAppError):
    """The bytes are not a picture that can be used; the message says what to do about it."""


class TooLarge(InvalidImage):
    """The file has too many bytes or the picture too many pixels."""


class AddressRefused(InvalidImage):
    """No picture can be had from this address, or the server must not ask there."""


class StorageFull(CaptionAppError):
    """There is no room, on the disk or in the quota, for another picture."""


class InvalidOptions(CaptionAppError):
    """A decoding option is outside its bounds."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        #: Name of the field of ``DecodeOptions``.
        self.option = option


class ModelUnavailable(CaptionAppError):
    """No caption can be made now: the model is missing, broken, or still failing to load."""

    def __init__(self, message: str, retry_after: float = 10.0) -> None:
        super().__init__(message)
        #: Seconds after which asking again makes sense.
        self.retry_after = retry_after


class CaptionFailed(CaptionAppError):
    """The model works, but not for this picture."""


class Dropped(CaptionAppError):
    """Nobody wants this caption any more; it was not begun."""


class QueueFull(ModelUnavailable):
    """More captions are waiting than the bounded queue holds."""


class FetchBusy(ModelUnavailable):
    """As many pictures are being fetched from the web as may be at a time."""


class UnknownVersion(CaptionAppError):
    """No model version of that name exists."""


class PullFailed(CaptionAppError):
    """A checkpoint could not be downloaded or is not a BLIP captioning checkpoint."""


class NotFound(CaptionAppError):
    """No such record, or not one that this browser may see."""


class InvalidFeedback(CaptionAppError):
    """The answer of a person cannot be kept as it is; the message says why."""


class FeedbackStoreError(CaptionAppError):
    """feedback.csv cannot be read or written."""


class InvalidDataset(CaptionAppError):
    """A folder of pictures with captions is not of the expected form."""


class ExportFailed(CaptionAppError):
    """The data set could not be written; the message says why and what is left of it."""


class TooFewRows(CaptionAppError):
    """Not enough answers to train or to judge on; the message says how many are missing."""


class TrainingBusy(CaptionAppError):
    """Another training is under way."""


class TrainingStopped(CaptionAppError):
    """Somebody asked the training to end; it can be resumed."""


class TrainingFailed(CaptionAppError):
    """The training cannot go on or its result cannot be kept."""


class TaskBusy(CaptionAppError):
    """Another version is being judged or promoted."""


class PromotionRefused(CaptionAppError):
    """The version does not become the current one; the message gives every reason."""


class PointerMoved(PromotionRefused):
    """Somebody else promoted another version meanwhile."""
