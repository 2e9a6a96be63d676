"""``python -m mmadclr``."""

from mmadclr.cli.main import main

if __name__ == '__main__':
    main()
