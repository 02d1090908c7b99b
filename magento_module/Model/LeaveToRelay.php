<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use LogicException;
use Magento\Framework\Mview\ActionInterface;

/**
 * Takes the place of the indexer that Magento asks of every view, and refuses to run.
 *
 * Were it to return, Magento would count the changes as worked through and could clear them from the changelog before
 * the relay has published them.
 */
class LeaveToRelay implements ActionInterface
{
    /**
     * @param int[] $ids
     * @throws LogicException always
     */
    public function execute($ids)
    {
        throw new LogicException(
            'The changelogs of the mview group "tocsin" are read by Tocsin\'s relay only; do not update these views.'
        );
    }
}
