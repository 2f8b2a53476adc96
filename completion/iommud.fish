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
            case run:--iommu run:--pin run:--log-level serve:--iommu serve:--pin serve:--log-level serve:--fuse serve:--cuse serve:--name serve:--mode serve:--group
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
complete -c iommud -n '__iommud_is_at iommud' -xa serve -d 'serve /dev/iommu in the foreground'
complete -c iommud -n '__iommud_is_at iommud' -s h -l help -d 'show this help message and exit'
complete -c iommud -n '__iommud_is_at iommud' -l version -d 'show program\'s version number and exit'
complete -c iommud -n '__iommud_is_at run' -s h -l help -d 'show this help message and exit'
complete -c iommud -n '__iommud_is_at run' -l why -d 'one line on stderr for each refused ioctl: who, which, errno, and the broken rule'
complete -c iommud -n '__iommud_is_at run' -l vfio -d 'serve /dev/vfio/vfio as well, VFIO\'s type1 container for programs older than IOMMUFD'
complete -c iommud -n '__iommud_is_at run' -l mock -d 'have the test ioctl of the kernel\'s selftests, which makes mock devices; without it there are none'
complete -c iommud -n '__iommud_is_at run' -l iommu -xa 'mock vtd smmuv3 amd none' -d 'with --mock: the IOMMU that its devices stand behind: mock, vtd, smmuv3, amd, none (default: mock)'
complete -c iommud -n '__iommud_is_at run' -l pin -xa 'watch uring' -d 'how memory is held for devices: watch, private memory is reached in its process (default), or uring, all is truly pinned, and shows in VmPin'
complete -c iommud -n '__iommud_is_at run' -l log-level -xa 'debug info warning error' -d 'from which level on to log to stderr: debug, info, warning, error (default: warning)'
complete -c iommud -n '__iommud_is_at run' -l no-watch -d 'without the seccomp filter by which mmap, and reads and writes of nothing, are refused as by the kernel\'s device; for a program that needs a seccomp listener of its own'
complete -c iommud -n '__iommud_is_at serve' -s h -l help -d 'show this help message and exit'
complete -c iommud -n '__iommud_is_at serve' -l why -d 'one line on stderr for each refused ioctl: who, which, errno, and the broken rule'
complete -c iommud -n '__iommud_is_at serve' -l vfio -d 'serve /dev/vfio/vfio as well, VFIO\'s type1 container for programs older than IOMMUFD'
complete -c iommud -n '__iommud_is_at serve' -l mock -d 'have the test ioctl of the kernel\'s selftests, which makes mock devices; without it there are none'
complete -c iommud -n '__iommud_is_at serve' -l iommu -xa 'mock vtd smmuv3 amd none' -d 'with --mock: the IOMMU that its devices stand behind: mock, vtd, smmuv3, amd, none (default: mock)'
complete -c iommud -n '__iommud_is_at serve' -l pin -xa 'watch uring' -d 'how memory is held for devices: watch, private memory is reached in its process (default), or uring, all is truly pinned, and shows in VmPin'
complete -c iommud -n '__iommud_is_at serve' -l log-level -xa 'debug info warning error' -d 'from which level on to log to stderr: debug, info, warning, error (default: warning)'
complete -c iommud -n '__iommud_is_at serve' -l fuse -rF -d 'serve a file PATH, which is made, and gone afterwards'
complete -c iommud -n '__iommud_is_at serve' -l cuse -x -d 'serve a character device /dev/NAME (the kernel needs CUSE)'
complete -c iommud -n '__iommud_is_at serve' -l name -x -d 'serve /dev/NAME, by what the kernel has (default: iommu)'
complete -c iommud -n '__iommud_is_at serve' -l clean -d 'remove what an iommud that was killed has left there, and end'
complete -c iommud -n '__iommud_is_at serve' -l mode -x -d 'its permission bits, octal (default: 0660)'
complete -c iommud -n '__iommud_is_at serve' -l group -xa '(__fish_complete_groups)' -d 'its group, by name (default: the caller\'s)'
