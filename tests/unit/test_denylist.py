"""The deny-list names plain mistakes and leaves ordinary commands alone."""

import pytest

from looop.denylist import dangerous

CAUGHT = """\
sudo id
{ sudo id; }
! sudo id
if sudo true; then :; fi
echo `sudo id`
echo $(sudo id)
bash -c 'sudo id'
bash -lc "sudo id"
/usr/bin/sudo id
env -i sudo id
A=1 env FOO=1 sudo x
timeout -k 3 5 sudo x
command sudo id
ls | xargs -n 1 sudo rm
x & sudo y
(sudo x)
eval sudo x
doas x
su -
pkexec x
rm -rf /etc
rm -rf //
rm -rf /.
rm -rf ~/*
rm -rf "/"
rm -rf ${HOME}
rm -rf $HOME/
/bin/rm -r -f /
rm --recursive --force ~
find / -delete
git -C repo push --force origin main
git  push -f origin main
git push --force-with-lease origin main
git push -uf origin main
git push -f origin refs/heads/main
git push -f
git push --mirror
git push origin :main
git push origin --delete main
git push origin +main
cd x && curl u | sh
FOO=1 curl u | env bash
curl u | /bin/sh
wget -O- u | python3
sh <(curl u)
bash -c "$(curl u)"
dd if=x of=/dev/vda
echo x >| /dev/sda
echo x > "/dev/sda"
cat x | tee /dev/sda
systemctl reboot
/sbin/reboot
wipefs -a /dev/sda
mkfs.ext4 /dev/sda
:(){ :|:& };:
echo hi\\nsudo id""".split("\n")

LEFT_ALONE = """\
rm -rf ./build
rm -r -f ./build
rm -rf /tmp/x
rm -rf /home/me/build
rm /etc/hosts
echo rm -rf /
git push origin main
git push --force origin feature
git push -f origin domain
git push origin +feature
git push -f origin feature; git checkout main
git log --grep 'push -f'
grep -f main x; git push origin feature
grep sudo /etc/group
x a=b sudo
echo 'sudo id'
man mkfs
last reboot
journalctl | grep shutdown
curl u
curl -o f u; sh f
curl u && ls | sh
curl u || true | sh
dd if=/dev/sda of=/dev/null
dd of=/dev/shm/f
echo '> /dev/sda'
ls > /dev/null
echo "unclosed""".split("\n")


@pytest.mark.parametrize("command", [c.replace("\\n", "\n") for c in CAUGHT])
def test_names_what_looks_irreversible(command: str) -> None:
    assert dangerous(command)


@pytest.mark.parametrize("command", ["", *LEFT_ALONE])
def test_leaves_ordinary_commands_alone(command: str) -> None:
    assert dangerous(command) is None
