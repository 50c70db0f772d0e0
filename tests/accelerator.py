"""A stand-in for a GPU: a device whose operators run on the CPU, and whose tensors do not mix with the CPU's.

It finds a tensor that was made on the CPU in the middle of a computation on the device, and counts how often a program
waits for the device. A tensor has memory of its own, and its views share it; what is drawn without a generator comes
from a generator of the device's own; autocast casts for the operators in `LOWER`.
What it cannot do: `torch.Generator(device)`, `torch.UntypedStorage(n, device=device)`, torch.load onto it, which
PyTorch asks of C++, and torch.compile. Its speed and memory say nothing of a GPU, its numbers are the CPU's, float64 is
there. It works while the CPU waits, so that a copy that is read before it has come is not found.
Needs PyTorch's back end for devices in Python, which is experimental: `missing` says whether it is there.
"""

import warnings
from contextlib import contextmanager, nullcontext
from functools import cache

import torch
from torch import Generator, Tensor
from torch.library import Library, fallthrough_kernel
from torch.utils import backend_registration

NAME = "standin"
DRAWS = Generator()  # the device's own
DIRECT = ("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "pow.Tensor_Scalar", "sum.dim_IntList")  # often asked
LOWER = ("conv2d", "linear", "matmul", "scaled_dot_product_attention")  # in bfloat16 under autocast
INDEXED = ("aten::index", "aten::index_put_", "aten::_index_put_impl_")  # their indices may lie on the CPU
waits: list[str] = []  # what the CPU has waited for, operators by their names

aten = torch.ops.aten
_registered: list[Library] = []


def missing() -> str:
    """Why this PyTorch cannot have the device, or ""."""
    there = hasattr(backend_registration, "_setup_privateuseone_for_python_backend") and hasattr(Library, "fallback")
    return "" if there else f"PyTorch {torch.__version__} takes no device that is written in Python"


def device() -> torch.device:
    """The device, which the first call makes known to PyTorch."""
    if not _registered:
        backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
        every, some = Library("_", "IMPL"), Library("aten", "IMPL")
        every.fallback(_run, "PrivateUse1")
        every.fallback(fallthrough_kernel, "AutocastPrivateUse1")
        for name, kernel in KERNELS.items():
            some.impl(name, kernel, "PrivateUse1")
        for name in DIRECT:
            packet, overload = name.split(".")
            some.impl(name, _kernel(getattr(getattr(aten, packet), overload)), "PrivateUse1")
        for name in LOWER:
            some.impl(name, _lowered(getattr(aten, name)), "AutocastPrivateUse1")
        torch.UntypedStorage.clone = _clone
        _registered.extend([every, some])  # they undo it when they are collected
    return torch.device(NAME, 0)


class Module:
    """What PyTorch looks up as torch.standin."""

    is_initialized = is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device = staticmethod(nullcontext)
    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed = manual_seed_all = staticmethod(DRAWS.manual_seed)
    get_rng_state = staticmethod(lambda device=None: DRAWS.get_state())
    set_rng_state = staticmethod(lambda state, device=None: DRAWS.set_state(state))
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])


def values(x: Tensor) -> Tensor:
    """The numbers of a tensor of the device: a tensor on the CPU in the same memory."""
    memory = x.untyped_storage().on_cpu
    if memory.dtype != x.dtype:
        memory = torch.empty(0, dtype=x.dtype, device="cpu").set_(memory.untyped_storage())
    return memory.as_strided(x.size(), x.stride(), x.storage_offset())


def tensor(numbers: Tensor) -> Tensor:
    """A tensor of the device in the memory of `numbers`, which lie on the CPU."""
    return _become(torch._C._acc.create_empty_tensor((0,), numbers.dtype), numbers)


def _become(x: Tensor, numbers: Tensor, storage: torch.UntypedStorage | None = None) -> Tensor:
    """Point x, of the device, to the memory of `numbers`; storage: the device's name for this memory, if it has one."""
    storage = _storage(numbers) if storage is None else storage
    form = numbers.storage_offset(), numbers.size(), numbers.stride()
    return _on_cpu(aten.set_.source_Storage_storage_offset, x, storage, *form)


def _storage(numbers: Tensor) -> torch.UntypedStorage:
    """The memory of a tensor on the CPU, as the device's."""
    memory = numbers.untyped_storage()
    storage = torch._C._construct_storage_from_data_pointer(memory.data_ptr(), torch.device(NAME, 0), memory.nbytes())
    storage.on_cpu = numbers  # PyTorch keeps what is said of a storage for as long as the storage lives
    return storage


def _clone(storage: torch.UntypedStorage, of_others=torch.UntypedStorage.clone) -> torch.UntypedStorage:
    """copy.deepcopy asks for it, and PyTorch would ask C++ for the device's memory, and crash."""
    if storage.device.type != NAME:
        return of_others(storage)
    memory = storage.on_cpu.untyped_storage().clone()
    return _storage(torch.empty(0, dtype=storage.on_cpu.dtype, device="cpu").set_(memory))


def _on_cpu(op, *args):
    """The CPU's own kernel, which for what only changes a tensor's form does not mind where its memory lies."""
    return op.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args)


def _run(op, *args, **kwargs):
    """Every operator without a kernel of its own: the CPU's, on the same memory."""
    return _kernel(op)(*args, **kwargs)


@cache
def _kernel(op, on_cpu=None):
    """An operator for tensors of the device.  on_cpu: what runs on the CPU, the same operator if it is not given."""
    on_cpu, name, arguments = on_cpu or op, op._schema.name, op._schema.arguments
    tensors = {i for i, argument in enumerate(arguments) if isinstance(argument.type, torch.TensorType)}
    draws = next((i for i, argument in enumerate(arguments) if argument.name == "generator"), None)
    may_wait = bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(op.tags))

    def kernel(*args, **kwargs):
        ours: list[tuple[Tensor, Tensor]] = []
        indices = args[1] if name in INDEXED else ()

        def to_cpu(x):
            if isinstance(x, Tensor):
                if x.device.type == NAME:
                    ours.append((x, values(x)))
                    return ours[-1][1]
                if x.ndim and not any(x is each for each in indices):
                    found = f"found at least two devices, {NAME}:0 and {x.device}! ({name}, shape {tuple(x.shape)})"
                    raise RuntimeError(f"Expected all tensors to be on the same device, but {found}")
            elif isinstance(x, list | tuple):
                return [to_cpu(each) for each in x]
            elif isinstance(x, Generator):
                raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{x.device}'")
            elif isinstance(x, torch.device):
                return torch.device("cpu")
            return x

        cpu_args, cpu_kwargs = [to_cpu(x) for x in args], {key: to_cpu(x) for key, x in kwargs.items()}
        if "out" in kwargs:  # PyTorch hands numbers over where the operator takes tensors
            dtype = kwargs["out"].dtype
            for i in tensors:
                if i < len(args) and isinstance(args[i], int | float):
                    cpu_args[i] = torch.scalar_tensor(args[i], dtype=dtype, device="cpu")
        if draws is not None and len(args) <= draws and cpu_kwargs.get("generator") is None:
            cpu_kwargs["generator"] = DRAWS
        put = (
            name in INDEXED[1:] and args[2].numel() > 1
        )  # a single number is filled in; reading asks nonzero by itself
        found = [x for x in indices if x is not None and (x.dtype == torch.bool or x.device.type == "cpu")]
        if (put and found) or (may_wait and name not in INDEXED):
            waits.append(name)
        out = on_cpu(*cpu_args, **cpu_kwargs)
        for x, numbers in ours:
            if x.shape != numbers.shape:  # an out= argument that has grown
                _become(x, numbers)
        return _back(out, ours)

    return kernel


def _back(out, ours):
    """What the CPU's operator gave: arguments as they are, views of them as views, and the rest as it is."""
    if isinstance(out, list | tuple):
        return type(out)(_back(each, ours) for each in out)
    if not isinstance(out, Tensor):
        return out
    for x, numbers in ours:
        if out is numbers:
            return x
        if numbers.numel() and out.untyped_storage()._cdata == numbers.untyped_storage()._cdata:
            return _become(torch._C._acc.create_empty_tensor((0,), out.dtype), out, x.untyped_storage())
    return tensor(out)


def _convolution_backward(gradient, x, weight, *rest):
    transposed, groups = rest[3], rest[5]
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return aten.convolution_backward.default(gradient, x, weight, [channels], *rest)


def _empty(size, *, dtype=None, memory_format=None, **_):
    return tensor(torch.empty(size, dtype=dtype, memory_format=memory_format, device="cpu"))


def _copy_from(source, target, non_blocking=False):
    """Between the devices; a GPU is waited for unless the copy to it is said not to block."""
    to, of = (x.device.type == NAME for x in (target, source))
    if source.numel() and not (to and (of or non_blocking)):
        waits.append("aten::_copy_from")
    (values(target) if to else target).copy_(values(source) if of else source)
    return target


KERNELS = {
    "empty.memory_format": _empty,
    "empty_strided": lambda size, stride, *, dtype=None, **_: tensor(
        torch.empty_strided(size, stride, dtype=dtype, device="cpu")
    ),
    "_copy_from": _copy_from,
    "resize_": lambda x, size, *, memory_format=None: _become(x, values(x).resize_(size)),
    "as_strided": lambda x, size, stride, offset=None: _on_cpu(aten.as_strided.default, x, size, stride, offset),
    "set_.source_Storage_storage_offset": lambda x, storage, offset, size, stride=(): _on_cpu(
        aten.set_.source_Storage_storage_offset, x, storage, offset, size, stride
    ),
    "convolution_overrideable": _kernel(aten.convolution_overrideable.default, aten.convolution.default),
    "convolution_backward_overrideable": _kernel(aten.convolution_backward_overrideable.default, _convolution_backward),
    "native_group_norm": _kernel(aten.native_group_norm.default),  # else a formula that refuses channels_last
    "_fused_sdp_choice": lambda *args, **kwargs: 0,  # attention by its formula
}


def _lowered(packet):
    """The operator under autocast: its float32 tensors in bfloat16."""

    def kernel(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            lower = torch.get_autocast_dtype(NAME)
            cast = [x.to(lower) if isinstance(x, Tensor) and x.dtype == torch.float32 else x for x in args]
            return packet(*cast, **kwargs)

    return kernel


@contextmanager
def waited(device: torch.device):
    """The list, once left, of what the CPU has waited for inside, on the stand-in or on a CUDA GPU."""
    found: list[str] = []
    if device.type == NAME:
        begin = len(waits)
        yield found
        found.extend(waits[begin:])
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found.extend(str(each.message) for each in told if "synchronizing" in str(each.message))
