# fish completion for iommud. Made by `make docs` from the options of iommud: not to be edited.

# Where the cursor is: `iommud`, `run`, `serve` (their options), or `program`, and then that program's words so far, one a line.
function __iommud_place
    set -l words (commandline -opc)
    set -e words[1]
    set -l place iommud
    while set -q words[1]
        switch $place:$words[1]
            case iommud:run iommud:serve
                set place $words[1]
            case run:--vfio run:--device run:--iommu run:--pin run:--log-level serve:--vfio serve:--device serve:--iommu serve:--pin serve:--log-level serve:--fuse serve:--cuse serve:--name serve:--mode serve:--share serve:--sysfs serve:--group
                set -e words[1]
            case run:--
                set -e words[1]
                printf '%s\n' program $words
                return
            case 'run:-*'
            case 'run:*'
                printf '%s\n' program $words
                return
        end
        set -e words[1]
    end
    echo $place
end

function __iommud_is_at
    contains -- (__iommud_place)[1] $argv
end

function __iommud_program
    set -l words (__iommud_place)
    complete --do-complete=(string join ' ' -- (string escape -- $words[2..-1]) (commandline -ct))
end

complete -c iommud -f
complete -c iommud -n '__iommud_is_at program' -xa '(__iommud_program)'
complete -c iommud -n '__iommud_is_at run' -xa '(complete --do-complete=(commandline -ct))'
complete -c iommud -n '__iommud_is_at iommud' -xa run -d 'run a program that sees a private /dev/iommu'
complete -c iommud -n '__iommud_is_at iommud' -xa serve -d 'serve a /dev/iommu for many programs'
complete -c iommud -n '__iommud_is_at iommud' -s h -l help -d 'show this help message and exit'
complete -c iommud -n '__iommud_is_at iommud' -l version -d 'show program\'s version number and exit'
complete -c iommud -n '__iommud_is_at run' -s h -l help -d 'show this help message and exit'
complete -c iommud -n '__iommud_is_at run' -l why -d 'one line on stderr for each refused ioctl: who, which, errno, and the broken rule'
complete -c iommud -n '__iommud_is_at run' -l vfio -xa 'iommufd type1' -d 'also serve /dev/vfio/vfio, VFIO\'s type1 container, for programs older than IOMMUFD; iommufd, which can be left out: IOMMUFD\'s; type1: VFIO\'s own, which distributions\' kernels have'
complete -c iommud -n '__iommud_is_at run' -l mock -d 'offer the test ioctl of the kernel\'s selftests, which makes mock devices'
complete -c iommud -n '__iommud_is_at run' -l device -x -d 'a PCI device, as /dev/vfio/devices/vfio0 and so on; any number of times. `help` lists the models, `MODEL,help` the keys of one, and nothing is run'
complete -c iommud -n '__iommud_is_at run' -l iommu -xa 'mock vtd smmuv3 amd none' -d 'with --mock or --device: which IOMMU devices stand behind: mock, vtd, smmuv3, amd, none (default: mock with --mock, vtd of a --device)'
complete -c iommud -n '__iommud_is_at run' -l pin -xa 'watch uring' -d 'how memory is kept for devices; watch (default): private memory is reached in its process; uring: all memory is really pinned, and shows in VmPin'
complete -c iommud -n '__iommud_is_at run' -l log-level -xa 'debug info warning error' -d 'log to stderr from this level on: debug, info, warning, error (default: warning)'
complete -c iommud -n '__iommud_is_at run' -l no-watch -d 'do without the seccomp filter that refuses mmap, and reads and writes of 0 bytes, as the kernel\'s device does; for a program that needs a seccomp listener of its own'
complete -c iommud -n '__iommud_is_at run' -l chardev -d 'tell whoever asks about the open device (fstat) that it is a character device, which some programs insist on; each fstat of the program then takes longer'
complete -c iommud -n '__iommud_is_at serve' -s h -l help -d 'show this help message and exit'
complete -c iommud -n '__iommud_is_at serve' -l why -d 'one line on stderr for each refused ioctl: who, which, errno, and the broken rule'
complete -c iommud -n '__iommud_is_at serve' -l vfio -xa 'iommufd type1' -d 'also serve /dev/vfio/vfio, VFIO\'s type1 container, for programs older than IOMMUFD; iommufd, which can be left out: IOMMUFD\'s; type1: VFIO\'s own, which distributions\' kernels have'
complete -c iommud -n '__iommud_is_at serve' -l mock -d 'offer the test ioctl of the kernel\'s selftests, which makes mock devices'
complete -c iommud -n '__iommud_is_at serve' -l device -x -d 'a PCI device, as /dev/vfio/devices/vfio0 and so on; any number of times. `help` lists the models, `MODEL,help` the keys of one, and nothing is run'
complete -c iommud -n '__iommud_is_at serve' -l iommu -xa 'mock vtd smmuv3 amd none' -d 'with --mock or --device: which IOMMU devices stand behind: mock, vtd, smmuv3, amd, none (default: mock with --mock, vtd of a --device)'
complete -c iommud -n '__iommud_is_at serve' -l pin -xa 'watch uring' -d 'how memory is kept for devices; watch (default): private memory is reached in its process; uring: all memory is really pinned, and shows in VmPin'
complete -c iommud -n '__iommud_is_at serve' -l log-level -xa 'debug info warning error' -d 'log to stderr from this level on: debug, info, warning, error (default: warning)'
complete -c iommud -n '__iommud_is_at serve' -l fuse -rF -d 'serve a file at PATH; the file, and missing directories, are made, and removed afterwards'
complete -c iommud -n '__iommud_is_at serve' -l cuse -x -d 'serve a character device /dev/NAME (needs CUSE in the kernel)'
complete -c iommud -n '__iommud_is_at serve' -l name -x -d 'serve /dev/NAME, by CUSE or by FUSE (default: iommu)'
complete -c iommud -n '__iommud_is_at serve' -l clean -d 'serve nothing; only remove what a killed iommud has left there'
complete -c iommud -n '__iommud_is_at serve' -l mode -x -d 'permission bits of the device, octal (default: 0660)'
complete -c iommud -n '__iommud_is_at serve' -l share -x -d 'what one user gets: workers (processes, one for each open file; 32, and one more for the rest), files (descriptors of each worker; 16384), memory (bytes of each worker; 2G), objects (with mappings, of all workers; 2000000)'
complete -c iommud -n '__iommud_is_at serve' -l sysfs -xa '(__fish_complete_directories)' -d 'with --device: show at DIR what the devices are in /sys, to be given to a container as its /sys, or to be bound over parts of one'
complete -c iommud -n '__iommud_is_at serve' -l group -xa '(__fish_complete_groups)' -d 'group of the device, by name (default: the caller\'s)'
