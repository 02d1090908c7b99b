<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Console\Command;

use Magento\Framework\Console\Cli;
use Symfony\Component\Console\Command\Command;
use Symfony\Component\Console\Input\InputInterface;
use Symfony\Component\Console\Output\OutputInterface;
use Tocsin\BreachNotification\Model\Capture\SubscribeViews;

/**
 * `tocsin:capture:enable`: subscribes what is off and mends what is broken. Run again, it changes nothing.
 */
class CaptureEnable extends Command
{
    /**
     * @param SubscribeViews $subscribeViews
     */
    public function __construct(private readonly SubscribeViews $subscribeViews)
    {
        parent::__construct('tocsin:capture:enable');
    }

    /**
     * @inheritDoc
     */
    protected function configure()
    {
        $this->setDescription('Makes the changelogs and triggers that Tocsin needs, or mends them');
    }

    /**
     * @inheritDoc
     */
    protected function execute(InputInterface $input, OutputInterface $output): int
    {
        $done = $this->subscribeViews->execute(true);
        $output->writeln($done ?: ['Everything is as it should be; nothing was changed.']);
        if ($done) {
            $output->writeln(
                'What changed while capture was off was not seen: run `tocsin relay backfill` and, for what was deleted,'
                . ' `tocsin relay verify --repair`.'
            );
        }
        return Cli::RETURN_SUCCESS;
    }
}
