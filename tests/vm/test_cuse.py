"""A real character device: `iommud serve --cuse` on Debian's stock kernel."""

from tests.support import IOMMUD

from .machine import Machine


def test_it_is_a_character_device(vm: Machine) -> None:
    daemon = vm.start(IOMMUD, "serve", "--cuse", "iommu")
    assert daemon.line(2) == "iommud: serving /dev/iommu (CUSE)"
    print(vm.run("ls", "-l", "/dev/iommu").check().stdout)
    assert vm.run("test", "-c", "/dev/iommu").status == 0
    daemon.kill(15)
    assert daemon.wait().status == 0
    assert vm.run("test", "-e", "/dev/iommu").status == 1
