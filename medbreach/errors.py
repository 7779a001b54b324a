"""Everything medbreach raises on purpose."""


class MedbreachError(Exception):
    """Base of every error raised on purpose; its message is one sentence for the user."""


class InputError(MedbreachError):
    """The user asked for something that cannot be done; the program ends with exit code 2."""


class ConfigError(InputError):
    """A setting has an unknown name, an unknown key or a value that its component refuses."""


class DataError(InputError):
    """A file, folder or data set is missing, damaged or unfit for the case."""


class ModelError(InputError):
    """A network cannot be built, or does not fit the case's images."""


class DeviceError(InputError):
    """The asked-for device is not there."""


class RecordError(InputError):
    """A run folder is missing, belongs to another run, or cannot be written."""


class PluginError(InputError):
    """A plugin offers a name twice, a hook that does not exist, or no component."""


class ContractError(MedbreachError):
    """A component returned something that its contract forbids."""


class NotApplicable(MedbreachError):  # noqa: N818 - an outcome, not a fault
    """The case lacks something that the component needs."""


class Refused(MedbreachError):  # noqa: N818 - an outcome, not a fault
    """A defense refused what the server sent, so the client sends nothing."""
