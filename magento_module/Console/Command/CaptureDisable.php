<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Console\Command;

use Magento\Framework\Console\Cli;
use Symfony\Component\Console\Command\Command;
use Symfony\Component\Console\Input\InputInterface;
use Symfony\Component\Console\Output\OutputInterface;
use Tocsin\BreachNotification\Model\Capture\UnsubscribeViews;

/**
 * `tocsin:capture:disable`: takes our statements out of the triggers, and keeps them out over upgrades.
 */
class CaptureDisable extends Command
{
    /**
     * @param UnsubscribeViews $unsubscribeViews
     */
    public function __construct(private readonly UnsubscribeViews $unsubscribeViews)
    {
        parent::__construct('tocsin:capture:disable');
    }

    /**
     * @inheritDoc
     */
    protected function configure()
    {
        $this->setDescription('Stops capturing: Tocsin sees no change of this store until it is enabled again');
    }

    /**
     * @inheritDoc
     */
    protected function execute(InputInterface $input, OutputInterface $output): int
    {
        $output->writeln($this->unsubscribeViews->execute() ?: ['Capture was off already.']);
        $output->writeln(
            'From now on Tocsin sees no change of this store, also after setup:upgrade. What waits in the changelogs stays.'
            . ' bin/magento tocsin:capture:enable ends this.'
        );
        return Cli::RETURN_SUCCESS;
    }
}
